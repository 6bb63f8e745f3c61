//! Reads what `CLUSTER NODES` answers.

use crate::address::Address;

/// A node, as some node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) address: Address,
    /// The node that was asked.
    pub(crate) myself: bool,
    pub(crate) primary: bool,
    /// Not known to be dead.
    pub(crate) alive: bool,
    /// The id of the primary that it follows.
    pub(crate) follows: Option<String>,
    pub(crate) slots: Vec<(u16, u16)>,
    /// Slots that are on their way to this node or from it; only the node itself says so.
    pub(crate) moving: Vec<u16>,
    /// Rises when the node takes slots over.
    pub(crate) epoch: u64,
}

/// Reads the whole answer of the node at `asked`; lines that are not understood are left out. Where there is TLS a node goes by
/// its host name if it has one, because that is what stands in certificates.
pub(crate) fn members(text: &str, asked: &Address, tls: bool) -> Vec<Member> {
    text.lines().filter_map(|line| member(line, asked, tls)).collect()
}

fn member(line: &str, asked: &Address, tls: bool) -> Option<Member> {
    // <id> <ip:port@bus[,host name]> <flags> <primary or -> <ping> <pong> <epoch> <link> <slot> <slot> ...
    let mut words = line.split_ascii_whitespace();
    let (id, place, flags, follows) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let flag = |wanted: &str| flags.split(',').any(|flag| flag == wanted);
    let (mut slots, mut moving) = (Vec::new(), Vec::new());
    let epoch = words.nth(2).and_then(|epoch| epoch.parse().ok()).unwrap_or_default();
    for word in words.skip(1) {
        if let Some(open) = word.strip_prefix('[') {
            moving.push(open.split('-').next()?.parse().ok()?);
            continue;
        }
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        slots.push((first.parse().ok()?, last.parse().ok()?));
    }
    Some(Member {
        id: id.to_owned(),
        address: address(place, asked, flag("myself"), tls)?,
        myself: flag("myself"),
        primary: flag("master"),
        alive: !(flag("fail") || flag("noaddr") || flag("handshake")),
        follows: (follows != "-").then(|| follows.to_owned()),
        slots,
        moving,
        epoch,
    })
}

fn address(place: &str, asked: &Address, myself: bool, tls: bool) -> Option<Address> {
    let (place, names) = place.split_once(',').unwrap_or((place, ""));
    let name = names.split(',').next().filter(|name| tls && !name.is_empty() && !name.contains('='));
    let (host, port) = place.split('@').next()?.rsplit_once(':')?;
    // A node that nobody has met yet does not know its own address.
    let host = match (host, myself) {
        ("", true) => asked.host.as_str(),
        (host, _) => host,
    };
    Some(Address::new(name.unwrap_or(host), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &str = "\
07c3 10.0.0.4:7004@17004,node-4.internal slave e7d1 0 1426238317239 4 connected
67ed 10.0.0.2:7002@17002 master - 0 1426238316232 2 connected 5461-10922
6ec2 10.0.0.3:7003@17003 master,fail - 0 1426238318243 3 disconnected 10923-16383
e7d1 :7001@17001,node-1.internal myself,master - 0 0 1 connected 0-5459 5460 [5461->-67ed]
9999 :0@0 master,noaddr - 0 0 0 disconnected
";

    #[test]
    fn nodes_are_what_they_are() {
        let asked = Address::new("10.0.0.1", 7001);
        let all = members(NODES, &asked, false);
        assert_eq!(all.len(), 5);
        let of = |id: &str| all.iter().find(|member| member.id == id).unwrap();
        let me = of("e7d1");
        assert!(me.myself && me.primary && me.alive);
        assert_eq!((me.moving.as_slice(), me.epoch, of("67ed").epoch), (&[5461][..], 1, 2));
        assert_eq!((&me.address, me.slots.as_slice()), (&asked, &[(0, 5459), (5460, 5460)][..]));
        assert_eq!((of("07c3").follows.as_deref(), of("07c3").primary), (Some("e7d1"), false));
        assert!(!of("6ec2").alive && !of("9999").alive && of("67ed").alive && of("67ed").moving.is_empty());
    }

    #[test]
    fn with_tls_nodes_go_by_their_names() {
        let all = members(NODES, &Address::new("10.0.0.1", 7001), true);
        let hosts: Vec<&str> = all.iter().map(|member| member.address.host.as_str()).collect();
        assert_eq!(hosts[..4], ["node-4.internal", "10.0.0.2", "10.0.0.3", "node-1.internal"]);
    }
}
