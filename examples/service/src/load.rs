//! Clients that send pictures to the service in this process, good ones and bad ones, and check every answer.

use crate::Result;
use crate::service::{BLUR, SEPIA, Service, decode, listen, serve};
use axum::body::Bytes;
use axum::http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use image::{ImageFormat, Rgb, RgbImage};
use std::collections::BTreeMap;
use std::io::Cursor;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// An answer that takes longer counts as none.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a client that was refused waits before it tries again.
const PAUSE: Duration = Duration::from_millis(250);
/// Memory stands still if it grows by no more than this beyond the peak of the first part of the run: what allocators need to
/// settle.
const SLACK_MIB: f64 = 16.0;

/// What clients send.
struct Case {
    body: Bytes,
    /// None for what is to be refused.
    answer: Option<RgbImage>,
}

type Counts = Mutex<BTreeMap<StatusCode, u64>>;

/// Fails when a request got no answer or a wrong one, or when memory grew.
pub async fn run(service: Arc<Service>, clients: usize, duration: Duration) -> Result<()> {
    let listener = listen((Ipv4Addr::LOCALHOST, 0).into())?;
    let address = listener.local_addr()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, service, async { drop(stopped.await) }));
    let (cases, counts): (Arc<[Case]>, Arc<Counts>) = (cases()?.into(), Arc::default());
    let start = Instant::now();
    let clients: Vec<_> =
        (0..clients).map(|index| tokio::spawn(client(address, Arc::clone(&cases), index, start + duration, Arc::clone(&counts)))).collect();

    let mut memory = Vec::new();
    let mut every_second = interval(Duration::from_secs(1));
    every_second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while start.elapsed() < duration {
        every_second.tick().await;
        if memory.len() % 10 == 0 {
            println!("{:4} s: {}; {:.1} MiB", start.elapsed().as_secs(), told(&counts), resident_mib()?);
        }
        memory.push(resident_mib()?);
    }
    for client in clients {
        client.await??;
    }
    // whoever is under way is answered: the clients have seen that; nobody keeps the server
    stop.send(()).map_err(|()| "the server has stopped by itself")?;
    timeout(PATIENCE, server).await???;
    println!("{:4} s: {}; {:.1} MiB", start.elapsed().as_secs(), told(&counts), resident_mib()?);

    if !lock(&counts).contains_key(&StatusCode::OK) {
        return Err("no picture was answered".into());
    }
    // a minute, or half of a short run
    let (settling, settled) = memory.split_at(60.min(memory.len() / 2));
    let [before, after] = [settling, settled].map(|part| part.iter().copied().fold(0.0, f64::max));
    println!("peak of the first {} s: {before:.1} MiB; afterwards: {after:.1} MiB", settling.len());
    if after > before + SLACK_MIB { Err("memory grew".into()) } else { Ok(()) }
}

/// Sends one case after the other over one connection.
async fn client(address: SocketAddr, cases: Arc<[Case]>, index: usize, end: Instant, counts: Arc<Counts>) -> Result<()> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(TcpStream::connect(address).await?)).await?;
    tokio::spawn(connection);
    for case in cases.iter().cycle().skip(index % cases.len()) {
        if Instant::now() >= end {
            break;
        }
        let request = Request::post("/convolve").header("host", "localhost").body(Full::new(case.body.clone()))?;
        sender.ready().await?;
        let (status, body) = timeout(PATIENCE, async {
            let answer = sender.send_request(request).await?;
            Ok::<_, hyper::Error>((answer.status(), answer.into_body().collect().await?.to_bytes()))
        })
        .await??;
        *lock(&counts).entry(status).or_default() += 1;
        match (status, &case.answer) {
            (StatusCode::OK, Some(expected)) => compare(&decode(&body)?, expected)?,
            (StatusCode::BAD_REQUEST, None) => {}
            (StatusCode::SERVICE_UNAVAILABLE, _) => sleep(PAUSE).await,
            _ => return Err(format!("answered {status}: {}", String::from_utf8_lossy(&body)).into()),
        }
    }
    Ok(())
}

/// Equal but for the rounding of sums.
fn compare(got: &RgbImage, expected: &RgbImage) -> Result<()> {
    let equal = got.dimensions() == expected.dimensions() && got.as_raw().iter().zip(expected.as_raw()).all(|(a, b)| a.abs_diff(*b) <= 1);
    if equal { Ok(()) } else { Err("a picture was answered with a wrong one".into()) }
}

fn cases() -> Result<Vec<Case>> {
    let encoded = |picture: &RgbImage, format| {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).map(|()| Bytes::from(bytes.into_inner()))
    };
    let mut cases = Vec::new();
    let sizes = [(160, 120, ImageFormat::Png), (97, 131, ImageFormat::Jpeg), (1, 7, ImageFormat::Png), (256, 64, ImageFormat::Png)];
    for (width, height, format) in sizes {
        let picture = RgbImage::from_fn(width, height, |x, y| Rgb([x * y, x + 3 * y, (7 * x) ^ y].map(|value| value as u8)));
        let body = encoded(&picture, format)?;
        let answer = Some(convolved(&decode(&body)?));
        cases.push(Case { body, answer });
    }
    let whole = cases[0].body.clone();
    let bad = [whole.slice(..whole.len() / 2), Bytes::from_static(b"no picture"), encoded(&RgbImage::new(1025, 1), ImageFormat::Png)?];
    cases.extend(bad.map(|body| Case { body, answer: None }));
    Ok(cases)
}

/// By the definition.
fn convolved(picture: &RgbImage) -> RgbImage {
    let (width, height) = picture.dimensions();
    let inside = |x: i64, y: i64| (0..width.into()).contains(&x) && (0..height.into()).contains(&y);
    RgbImage::from_fn(width, height, |x, y| {
        let mut blurred = [0.0; 3];
        for (i, column) in BLUR.iter().enumerate() {
            for (j, row) in BLUR.iter().enumerate() {
                let (x, y) = (i64::from(x) + j as i64 - 2, i64::from(y) + i as i64 - 2);
                if inside(x, y) {
                    let pixel = picture.get_pixel(x as u32, y as u32);
                    for (sum, &value) in blurred.iter_mut().zip(&pixel.0) {
                        *sum += column * row * f32::from(value);
                    }
                }
            }
        }
        Rgb(SEPIA.map(|shares| shares.iter().zip(&blurred).map(|(share, value)| share * value).sum::<f32>().round() as u8))
    })
}

fn lock(counts: &Counts) -> std::sync::MutexGuard<'_, BTreeMap<StatusCode, u64>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// "1234 requests: 200 x 1000, 503 x 234"
fn told(counts: &Counts) -> String {
    let counts = lock(counts);
    let each: Vec<_> = counts.iter().map(|(status, count)| format!("{} x {count}", status.as_u16())).collect();
    format!("{} requests: {}", counts.values().sum::<u64>(), each.join(", "))
}

/// Memory of this process, clients included, that lies in RAM.
fn resident_mib() -> Result<f64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = statm.split(' ').nth(1).ok_or("/proc/self/statm has changed")?.parse()?;
    Ok(pages * 4096.0 / (1 << 20) as f64)
}
