//! A picture comes in, a convolved one goes out.
//!
//! Everything that a request may use has a bound: the bytes of its body, the time to send it, the pixels of its picture, the
//! requests that are let in and those that are computed at once, and the plans that are kept. Requests beyond are refused at once
//! (503), so that those which are let in are answered soon.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http_body_util::BodyExt;
use image::{ImageFormat, ImageReader, Limits, RgbImage};
use std::collections::VecDeque;
use std::future::Future;
use std::io::Cursor;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use warpconv::{
    Conv2d, Conv2dSpec, Device, HostOptions, Inputs, Layer, MemoryFormat, Padding, Parameter, Plan, PlanRequest, Stream, Tensor, Workspace,
};

/// Requests that are computed at once.
const PERMITS: usize = 4;
/// Requests that are let in: those that are computed, and those that send their picture or wait for a permit.
const PLACES: usize = 32;
/// Of a body.
const MOST_BYTES: usize = 4 << 20;
/// Pixels of a picture along each axis.
const MOST_PIXELS: u32 = 1024;
/// What decoding may allocate.
const MOST_DECODED_BYTES: u64 = 32 << 20;
/// Clients that wait to be connected.
const MOST_CONNECTING: u32 = 1024;
const TIME_TO_SEND: Duration = Duration::from_secs(10);
/// One for each size of picture; the one that was used longest ago makes room.
const MOST_PLANS: usize = 16;

/// Colours become sepia: rows are red, green and blue of the output.
pub const SEPIA: [[f32; 3]; 3] = [[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]];
/// The blur along each axis; its square sums to 1.
pub const BLUR: [f32; 5] = [0.0625, 0.25, 0.375, 0.25, 0.0625];

/// Plans by height and width, the one used last at the end.
type Plans = VecDeque<([usize; 2], Arc<Plan<f32>>)>;

pub struct Service {
    device: Device,
    layer: Conv2d,
    plans: Mutex<Plans>,
    places: Arc<Semaphore>,
    permits: Arc<Semaphore>,
}

impl Service {
    pub fn new() -> warpconv::Result<Arc<Self>> {
        // each request is computed on its own thread; PERMITS says how many there are
        let device = Device::host_with(HostOptions { threads: 1, ..Default::default() })?;
        let taps = BLUR.map(|column| BLUR.map(|row| column * row));
        let weight: Vec<f32> = SEPIA.iter().flatten().flat_map(|&share| taps.into_iter().flatten().map(move |tap| share * tap)).collect();
        let spec = Conv2dSpec { padding: Padding::Same, ..Default::default() };
        let layer = Conv2d::new(spec, Parameter::new(&[3, 3, 5, 5], &weight)?)?;
        let [places, permits] = [PLACES, PERMITS].map(|count| Arc::new(Semaphore::new(count)));
        Ok(Arc::new(Self { device, layer, plans: Mutex::default(), places, permits }))
    }

    fn plan(&self, size: [usize; 2]) -> warpconv::Result<Arc<Plan<f32>>> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let known = plans.iter().position(|(of, _)| *of == size).and_then(|at| plans.remove(at));
        let entry = match known {
            Some(entry) => entry,
            None => {
                let request = PlanRequest::new([1, 3, size[0], size[1]]).format(MemoryFormat::ChannelsLast);
                (size, Arc::new(self.layer.plan::<f32>(&self.device, &request)?))
            }
        };
        if plans.len() == MOST_PLANS {
            plans.pop_front();
        }
        let plan = Arc::clone(&entry.1);
        plans.push_back(entry);
        Ok(plan)
    }

    fn convolve(&self, picture: &RgbImage) -> warpconv::Result<RgbImage> {
        let [width, height] = [picture.width(), picture.height()];
        let plan = self.plan([height as usize, width as usize])?;
        let values: Vec<f32> = picture.as_raw().iter().map(|&value| value.into()).collect();
        let shape = [1, 3, height as usize, width as usize];
        let x = Tensor::from_slice_in_memory_order(&self.device, shape, MemoryFormat::ChannelsLast, &values)?;
        let mut y = Tensor::zeros(&self.device, plan.output_shape(), plan.output_format())?;
        plan.run(&Inputs::new(&x), &mut y, Workspace::none(), &Stream::default_of(&self.device))?;
        // to the nearest; `as` keeps to 0 and 255
        let bytes = y.to_vec_in_memory_order()?.iter().map(|value| value.round() as u8).collect();
        Ok(RgbImage::from_raw(width, height, bytes).expect("the output is as large as the input"))
    }

    /// Decodes, convolves and encodes.
    fn answer(&self, bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
        let picture = decode(bytes).map_err(|e| Refusal(StatusCode::BAD_REQUEST, format!("not a picture that can be taken: {e}")))?;
        let failed = |e: &dyn std::fmt::Display| Refusal(StatusCode::INTERNAL_SERVER_ERROR, e.to_string());
        let picture = self.convolve(&picture).map_err(|e| failed(&e))?;
        let mut png = Cursor::new(Vec::new());
        picture.write_to(&mut png, ImageFormat::Png).map_err(|e| failed(&e))?;
        Ok(png.into_inner())
    }
}

/// A PNG or JPEG, but none that is large: its header says so before anything is allocated.
pub fn decode(bytes: &[u8]) -> image::ImageResult<RgbImage> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MOST_PIXELS);
    limits.max_image_height = Some(MOST_PIXELS);
    limits.max_alloc = Some(MOST_DECODED_BYTES);
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    reader.limits(limits);
    Ok(reader.decode()?.into_rgb8())
}

/// Why there is no picture.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, [(RETRY_AFTER, "1")], self.1 + "\n").into_response()
    }
}

async fn convolve(State(service): State<Arc<Service>>, mut body: Body) -> Result<Response, Refusal> {
    let late = |_| Refusal(StatusCode::REQUEST_TIMEOUT, format!("the picture took longer than {} s", TIME_TO_SEND.as_secs()));
    let Ok(place) = Arc::clone(&service.places).try_acquire_owned() else {
        // the client may read no answer before it has sent everything; nothing of it is kept
        timeout(TIME_TO_SEND, async { while let Some(Ok(_)) = body.frame().await {} }).await.map_err(late)?;
        return Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once: try again".into()));
    };
    let bytes = timeout(TIME_TO_SEND, to_bytes(body, MOST_BYTES)).await.map_err(late)?;
    let bytes = bytes.map_err(|e| Refusal(StatusCode::PAYLOAD_TOO_LARGE, format!("a picture has at most {MOST_BYTES} bytes: {e}")))?;
    let permit = Arc::clone(&service.permits).acquire_owned().await.expect("nobody closes it");
    let computed = tokio::task::spawn_blocking(move || {
        // also held where the client has gone meanwhile
        let _held = (place, permit);
        service.answer(&bytes)
    });
    let png = computed.await.map_err(|e| Refusal(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))??;
    Ok(([(CONTENT_TYPE, "image/png")], png).into_response())
}

/// Listens with room for as many clients as may connect at once: tokio's own 128 places overflow when hundreds do, and some of their
/// connections are then reset.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(MOST_CONNECTING)
}

/// Answers requests until `stopped`, and those that are under way then.
pub async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let routes = Router::new().route("/convolve", post(convolve)).with_state(service);
    axum::serve(listener, routes).with_graceful_shutdown(stopped).await
}
