//! A release with its spans and metrics exported.
//!
//! The engine speaks to two facades, `tracing` and `metrics`; a program decides where that goes. This one gives the spans
//! to OpenTelemetry: by OTLP over HTTP to `OTEL_EXPORTER_OTLP_ENDPOINT` if that is set, otherwise as a tree on stdout.
//! The metrics it renders in Prometheus' format: at the end, or with `--listen` for whoever asks, until it is stopped.
//!
//! ```sh
//! cargo run --example telemetry -- errors-at-50
//! OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 cargo run --example telemetry -- --listen 127.0.0.1:9000
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Parser;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use moodify_core::engine::describe_metrics;
use moodify_core::journal::MemoryJournal;
use moodify_core::testing::{Scenario, Simulator};
use moodify_core::{Engine, planfile};
use opentelemetry::trace::{SpanId, TracerProvider};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Runs a simulated release and exports its spans and metrics.
#[derive(Debug, Parser)]
struct Args {
    /// What happens in the simulated world
    #[arg(default_value = "healthy")]
    scenario: String,
    /// Serve the metrics here, until the program is stopped
    #[arg(long)]
    listen: Option<SocketAddr>,
}

type Anyhow<T> = Result<T, Box<dyn Error>>;

fn main() -> Anyhow<()> {
    let args = Args::parse();
    let kept = Kept::default();
    let provider = provider(&kept)?;
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("moodify"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_level(false)
        .with_tracked_inactivity(false)
        .with_filter(LevelFilter::INFO);
    tracing_subscriber::registry().with(spans).init();
    let metrics = metrics_recorder(args.listen)?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
    runtime.block_on(release(&args.scenario))?;

    // What was not sent yet is sent now.
    provider.shutdown()?;
    kept.print();
    println!("{}", metrics.render());
    if let Some(address) = args.listen {
        println!("the metrics are served at http://{address}/metrics");
        std::thread::park();
    }
    Ok(())
}

/// The engine, as everywhere: it knows nothing of exporters.
async fn release(scenario: &str) -> Anyhow<()> {
    let text = include_str!("../plans/minimal.yaml");
    let plan = planfile::read(text, "minimal.yaml")?.0.expand();
    let world = Simulator::for_plan(&plan, Scenario::named(scenario)?);
    let engine = Engine::new(Arc::new(MemoryJournal::new()), world.backends_for(&plan)).with_clock(world.clock());
    let (run, ending) = engine.run(&plan, "ana").await?;
    println!("{run}: {ending:?}\n");
    Ok(())
}

fn provider(kept: &Kept) -> Anyhow<SdkTracerProvider> {
    let builder = SdkTracerProvider::builder().with_resource(Resource::builder().with_service_name("moodify").build());
    if std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_none() {
        return Ok(builder.with_simple_exporter(kept.clone()).build());
    }
    // The exporter's HTTP client wants to know whose cryptography it uses; a second answer would be no harm.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(builder.with_batch_exporter(SpanExporter::builder().with_http().build()?).build())
}

fn metrics_recorder(listen: Option<SocketAddr>) -> Anyhow<PrometheusHandle> {
    const SECONDS: [f64; 8] = [0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0];
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?;
    let Some(address) = listen else {
        let handle = builder.install_recorder()?;
        describe_metrics();
        return Ok(handle);
    };
    // Served by a runtime of its own: simulated time must not touch it.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (recorder, server) = {
        let _inside = runtime.enter();
        builder.with_http_listener(address).build()?
    };
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    describe_metrics();
    std::thread::spawn(move || runtime.block_on(server));
    Ok(handle)
}

/// Keeps the spans of a short program, to print them as a tree.
#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl opentelemetry_sdk::trace::SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(batch);
        Ok(())
    }
}

impl Kept {
    fn print(&self) {
        let mut spans = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        spans.sort_by_key(|span| span.start_time);
        let mut children: BTreeMap<[u8; 8], Vec<&SpanData>> = BTreeMap::new();
        for span in &spans {
            children.entry(span.parent_span_id.to_bytes()).or_default().push(span);
        }
        print_below(SpanId::INVALID, 0, &children);
    }
}

fn print_below(parent: SpanId, depth: usize, children: &BTreeMap<[u8; 8], Vec<&SpanData>>) {
    for span in children.get(&parent.to_bytes()).into_iter().flatten() {
        let fields: Vec<String> = span.attributes.iter().map(|a| format!("{}={}", a.key, a.value)).collect();
        println!("{}{} {}", "  ".repeat(depth), span.name, fields.join(" "));
        print_below(span.span_context.span_id(), depth + 1, children);
    }
}
