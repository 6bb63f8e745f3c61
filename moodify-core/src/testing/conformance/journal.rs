use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{sleep, timeout};

use super::{fails, good, named};
use crate::error::ErrorKind;
use crate::journal::{Command, CommandKind, Entry, JournalStore, Lease, Record};
use crate::model::RunId;

/// A session that does not end meanwhile.
const LONG: Duration = Duration::from_secs(3600);

fn entry(seq: u64, token: u64) -> Entry {
    let record = Record::Held { step: "bake".to_owned(), reason: format!("record {seq} of token {token}") };
    Entry { seq, time: Timestamp::UNIX_EPOCH, elapsed_ms: Some(seq), token, record }
}

/// Puts a [`JournalStore`], which holds no runs yet, to its contract. No call takes longer than `patience`. Waits for
/// sessions of that length to run out, so it takes some times as long. Leaves a few runs behind.
///
/// # Panics
/// If it is not kept.
pub async fn journal_store(store: &dyn JournalStore, patience: Duration) {
    assert_eq!(good("an empty journal can be listed", store.list().await), Vec::<RunId>::new());
    records(store).await;
    ownership(store).await;
    sessions(store, patience).await;
    commands(store, patience).await;
    removal(store, patience).await;
}

async fn created(store: &dyn JournalStore, name: &str) -> RunId {
    let run = named(name);
    good("a run can be created", store.create(&run, &entry(1, 0)).await);
    run
}

async fn records(store: &dyn JournalStore) {
    let nowhere = named("conformance-none");
    fails("it was never created", ErrorKind::NotFound, store.load(&nowhere).await);
    fails("it was never created", ErrorKind::NotFound, store.acquire(&nowhere, "ann", LONG).await);
    fails("it was never created", ErrorKind::NotFound, store.holder(&nowhere).await);
    fails("it was never created", ErrorKind::NotFound, store.remove(&nowhere).await);

    let run = created(store, "conformance-records").await;
    let earlier = created(store, "conformance-a").await;
    fails("it was created", ErrorKind::AlreadyExists, store.create(&run, &entry(1, 0)).await);
    assert_eq!(good("runs can be listed", store.list().await), [earlier, run.clone()], "in the order of their names");
    assert_eq!(good("it can be read", store.load(&run).await), [entry(1, 0)]);

    let lease = good("it can be taken", store.acquire(&run, "ann", LONG).await);
    assert_eq!(lease.owner, "ann");
    let token = lease.token;
    good("one record", store.append(&run, &lease, 1, &[entry(2, token)]).await);
    good("several records", store.append(&run, &lease, 2, &[entry(3, token), entry(4, token)]).await);
    let four = [entry(1, 0), entry(2, token), entry(3, token), entry(4, token)];
    assert_eq!(good("it can be read", store.load(&run).await), four);
    for (promise, expected, seq) in [("it ends later", 2, 3), ("it ends earlier", 5, 6)] {
        let appended = store.append(&run, &lease, expected, &[entry(seq, token)]).await;
        assert!(appended.is_err(), "{promise}, so nothing is appended after record {expected}");
    }
    assert_eq!(good("it can be read", store.load(&run).await), four, "what failed left nothing");
    good("it can be given up", store.give_up(&run, &lease).await);
}

async fn ownership(store: &dyn JournalStore) {
    let run = created(store, "conformance-ownership").await;
    assert_eq!(good("it can be asked for", store.holder(&run).await), None, "nobody has it");
    let anybody = Lease { owner: "ann".to_owned(), token: 0 };
    fails("nobody has it", ErrorKind::Fenced, store.append(&run, &anybody, 1, &[entry(2, 0)]).await);

    let first = good("it can be taken", store.acquire(&run, "ann", LONG).await);
    assert_eq!(good("it can be asked for", store.holder(&run).await).as_deref(), Some("ann"));
    let refused = fails("ann has it", ErrorKind::Refused, store.acquire(&run, "bob", LONG).await);
    assert!(refused.to_string().contains("ann"), "who has it is named: {refused}");
    good("what was refused changed nothing", store.append(&run, &first, 1, &[entry(2, first.token)]).await);

    let again = good("its owner can take it again", store.acquire(&run, "ann", LONG).await);
    assert!(again.token > first.token, "each lease has a greater token: {first:?}, {again:?}");
    fails("it is not the newest lease", ErrorKind::Fenced, store.append(&run, &first, 2, &[entry(3, 1)]).await);
    good("giving up what is lost is fine", store.give_up(&run, &first).await);
    good("and changes nothing", store.append(&run, &again, 2, &[entry(3, again.token)]).await);

    good("it can be given up", store.give_up(&run, &again).await);
    assert_eq!(good("it can be asked for", store.holder(&run).await), None, "it was given up");
    let late = store.append(&run, &again, 3, &[entry(4, again.token)]).await;
    fails("it was given up", ErrorKind::Fenced, late);
    let other = good("it can be taken at once", store.acquire(&run, "bob", LONG).await);
    assert!(other.token > again.token, "each lease has a greater token: {again:?}, {other:?}");
    good("bob appends", store.append(&run, &other, 3, &[entry(4, other.token)]).await);
    assert_eq!(good("it can be read", store.load(&run).await).len(), 4);
    good("it can be given up", store.give_up(&run, &other).await);
}

async fn sessions(store: &dyn JournalStore, patience: Duration) {
    let (one, two) = (created(store, "conformance-one").await, created(store, "conformance-two").await);
    fails("it never had a run", ErrorKind::Fenced, store.renew("nobody", LONG).await);
    let first = good("it can be taken", store.acquire(&one, "stuck", patience).await);
    let second = good("one session has several runs", store.acquire(&two, "stuck", Duration::ZERO).await);
    fails("which shortens nothing", ErrorKind::Refused, store.acquire(&two, "next", LONG).await);
    sleep(patience / 2).await;
    good("a session can be renewed", store.renew("stuck", patience * 2).await);
    sleep(patience).await;
    fails("it was renewed", ErrorKind::Refused, store.acquire(&one, "next", LONG).await);
    sleep(patience * 2).await;
    good("what ran out, but nobody took, can be renewed", store.renew("stuck", patience).await);
    fails("it was renewed", ErrorKind::Refused, store.acquire(&one, "next", LONG).await);
    sleep(patience * 2).await;
    let next = good("the session ran out", store.acquire(&one, "next", LONG).await);
    assert!(next.token > first.token, "each lease has a greater token: {first:?}, {next:?}");

    let promise = "its session was ended";
    fails(promise, ErrorKind::Fenced, store.renew("stuck", patience).await);
    fails(promise, ErrorKind::Fenced, store.append(&one, &first, 1, &[entry(2, first.token)]).await);
    fails(promise, ErrorKind::Fenced, store.append(&two, &second, 1, &[entry(2, second.token)]).await);
    fails("for good", ErrorKind::Fenced, store.renew("stuck", patience).await);
    good("giving up what is lost is fine", store.give_up(&one, &first).await);
    good("and changes nothing", store.append(&one, &next, 1, &[entry(2, next.token)]).await);
    let freed = good("its other runs are free", store.acquire(&two, "next", LONG).await);
    good("and can be written to", store.append(&two, &freed, 1, &[entry(2, freed.token)]).await);

    good("it can be given up", store.give_up(&two, &freed).await);
    let anew = good("it may begin a new session", store.acquire(&two, "stuck", LONG).await);
    fails("which brings nothing back", ErrorKind::Fenced, store.append(&one, &first, 2, &[entry(3, 1)]).await);
    good("but can be renewed", store.renew("stuck", LONG).await);
    good("it can be given up", store.give_up(&two, &anew).await);
    good("it can be given up", store.give_up(&one, &next).await);
}

async fn commands(store: &dyn JournalStore, patience: Duration) {
    let (run, other) = (created(store, "conformance-inbox").await, created(store, "conformance-other").await);
    let command = |reason: &str| Command::new(CommandKind::Pause, "ann", reason);
    let (first, second, third) = (command("first"), command("second"), command("third"));
    let nowhere = named("conformance-none");
    fails("there is no such run", ErrorKind::NotFound, store.send(&nowhere, &first).await);
    let none = timeout(patience, store.commands(&nowhere, &BTreeSet::new())).await;
    fails("there is no such run", ErrorKind::NotFound, none.expect("it does not wait for ever"));

    let mut known = BTreeSet::new();
    assert!(timeout(patience / 4, store.commands(&run, &known)).await.is_err(), "without a command, it is waited");
    let (_, waited) = tokio::join!(
        async {
            sleep(patience / 4).await;
            good("a command needs no lease", store.send(&run, &first).await);
        },
        timeout(patience, store.commands(&run, &known))
    );
    let taken = good("they can be taken", waited.expect("a command wakes who waits"));
    assert_eq!(taken, std::slice::from_ref(&first));
    good("sending again is fine", store.send(&run, &first).await);
    good("another can be sent", store.send(&run, &second).await);
    sleep(patience / 10).await;
    good("and another", store.send(&run, &third).await);
    let waited = timeout(patience, store.commands(&run, &known)).await;
    let taken = good("they can be taken", waited.expect("they are there"));
    assert_eq!(taken, [first.clone(), second.clone(), third.clone()], "each once, oldest first");
    known.extend([first.id, third.id]);
    let waited = timeout(patience, store.commands(&run, &known)).await;
    let taken = good("they can be taken", waited.expect("one is not known"));
    assert_eq!(taken, std::slice::from_ref(&second));
    known.insert(second.id);
    assert!(timeout(patience / 4, store.commands(&run, &known)).await.is_err(), "all are known");
    assert!(timeout(patience / 4, store.commands(&other, &BTreeSet::new())).await.is_err(), "each run has its own");
}

async fn removal(store: &dyn JournalStore, patience: Duration) {
    let run = created(store, "conformance-removal").await;
    let lease = good("it can be taken", store.acquire(&run, "ann", LONG).await);
    good("it can be written", store.append(&run, &lease, 1, &[entry(2, lease.token)]).await);
    let command = Command::new(CommandKind::Abort, "ann", "");
    good("a command can be sent", store.send(&run, &command).await);
    let refused = fails("somebody owns it", ErrorKind::Refused, store.remove(&run).await);
    assert!(refused.to_string().contains("ann"), "who has it is named: {refused}");
    assert_eq!(good("it is whole", store.load(&run).await).len(), 2);
    good("it can be given up", store.give_up(&run, &lease).await);
    good("it can be removed", store.remove(&run).await);
    fails("it is gone", ErrorKind::NotFound, store.load(&run).await);
    fails("it is gone", ErrorKind::NotFound, store.remove(&run).await);
    assert!(!good("runs can be listed", store.list().await).contains(&run), "it is gone");
    let late = store.append(&run, &lease, 2, &[entry(3, lease.token)]).await;
    assert!(late.is_err(), "it is gone");

    let again = created(store, "conformance-removal").await;
    assert_eq!(good("it is another run", store.load(&again).await), [entry(1, 0)]);
    let left = timeout(patience / 4, store.commands(&again, &BTreeSet::new())).await;
    assert!(left.is_err(), "its commands went with it");
    good("it can be removed unowned", store.remove(&again).await);

    let run = created(store, "conformance-removal").await;
    good("it can be taken", store.acquire(&run, "stopped", patience).await);
    sleep(patience * 2).await;
    good("an owner whose session ran out does not keep it", store.remove(&run).await);
    fails("its session was ended", ErrorKind::Fenced, store.renew("stopped", patience).await);
}
