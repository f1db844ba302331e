//! A small web service on the host device, and a client that puts it under load.
//!
//! ```sh
//! cargo run --release -- --listen 127.0.0.1:8080
//! curl --data-binary @photo.jpg http://127.0.0.1:8080/convolve > blurred.png
//! cargo run --release -- --load --clients 400 --seconds 60
//! ```
#![forbid(unsafe_code)]

mod load;
mod service;

use clap::Parser;
use service::Service;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Answers pictures with blurred ones, in sepia.
#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Instead of serving others: starts the service on 127.0.0.1, sends it pictures, and checks the answers and its memory.
    #[arg(long)]
    load: bool,
    /// Clients that send one picture after the other.
    #[arg(long, default_value_t = 400)]
    clients: usize,
    /// How long they do.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let service = Service::new()?;
        if arguments.load {
            return load::run(service, arguments.clients, Duration::from_secs(arguments.seconds)).await;
        }
        let listener = service::listen(arguments.listen)?;
        println!("listening on http://{}", listener.local_addr()?);
        Ok(service::serve(listener, service, stopped()).await?)
    })
}

/// Control-C, or what an orchestrator sends before it kills.
async fn stopped() {
    let mut terminated = signal(SignalKind::terminate()).expect("the runtime handles signals");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
}
