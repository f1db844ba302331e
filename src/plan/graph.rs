//! A chain of plans that is captured once and replayed often.

use super::rois::{RoIs, RoisView};
use super::workspace::WorkspaceMemory;
use super::{Inputs, Plan};
use crate::device::{Captured, Uses, capture};
use crate::error::{Error, Result};
use crate::{Device, Element, Stream, Tensor, TensorView, TensorViewMut};
use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs of plans that are captured once and replayed as one. On a GPU this is a CUDA graph, and a
/// replay costs one launch whatever the number of layers. On the host device a replay does the same
/// runs, one after the other.
///
/// A graph owns the plans, tensors and workspace of its runs, since a captured CUDA graph holds
/// their addresses: nothing that a replay uses can be freed before the graph. [`Recorder::tensor`]
/// moves a tensor into the graph; [`Graph::view`] and [`Graph::view_mut`] give access to it.
///
/// ```
/// use warpconv::{Activation, Conv2d, Conv2dSpec, Device, Graph, Inputs, Layer, MemoryFormat, Parameter, PlanRequest, Stream, Tensor};
/// # fn main() -> warpconv::Result<()> {
/// let device = Device::best()?;
/// let spec = Conv2dSpec { activation: Activation::Relu, ..Default::default() };
/// let layer = Conv2d::new(spec, Parameter::new(&[4, 4, 1, 1], &[0.25f32; 16])?)?;
/// let plan = std::sync::Arc::new(layer.plan::<f32>(&device, &PlanRequest::new([1, 4, 8, 8]))?);
///
/// let (mut x, mut y) = (None, None);
/// let mut graph = Graph::capture(&device, |recorder| {
///     let tensor = || Tensor::<f32>::zeros(&device, [1, 4, 8, 8], MemoryFormat::Contiguous);
///     let (input, middle, output) = (recorder.tensor(tensor()?), recorder.tensor(tensor()?), recorder.tensor(tensor()?));
///     // the same layer twice, one after the other
///     recorder.run(plan.clone(), move |tensors| Ok(Inputs::new(tensors.view(input)?)), middle)?;
///     recorder.run(plan.clone(), move |tensors| Ok(Inputs::new(tensors.view(middle)?)), output)?;
///     (x, y) = (Some(input), Some(output));
///     Ok(())
/// })?;
/// let (x, y) = (x.unwrap(), y.unwrap());
///
/// let stream = Stream::new(&device)?;
/// for value in [1.0, 2.0] {
///     graph.view_mut(x)?.write(&[value; 256])?;
///     graph.replay(&stream)?;
///     assert_eq!(graph.view(y)?.to_vec()?, [value; 256]);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Graph {
    // The first field is dropped first: the captured launches hold addresses of what follows.
    captured: Captured,
    steps: Vec<Step>,
    tensors: Tensors,
    workspace: WorkspaceMemory,
    device: Device,
}

/// One run. The closure holds the plan and the places of its inputs.
type Step = Box<dyn Fn(&mut Tensors, &mut WorkspaceMemory, &Stream) -> Result<()> + Send + Sync>;

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { steps, tensors, device, .. } = self;
        write!(f, "Graph of {} runs over {} tensors on {device}", steps.len(), tensors.slots.len())
    }
}

/// The place of a tensor in a [`Graph`].
#[derive(Debug)]
pub struct Slot<T> {
    graph: u64,
    index: usize,
    tensor: PhantomData<fn() -> T>,
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slot<T> {}

impl<T> Slot<T> {
    /// Some of the tensor's channels, as the output of a run.
    pub fn channels(self, range: Range<usize>) -> Target<T> {
        Target { slot: self, channels: Some(range) }
    }
}

/// Where a run of a [`Graph`] writes: a tensor, or some of its channels.
#[derive(Debug, Clone)]
pub struct Target<T> {
    slot: Slot<T>,
    channels: Option<Range<usize>>,
}

impl<T> From<Slot<T>> for Target<T> {
    fn from(slot: Slot<T>) -> Self {
        Self { slot, channels: None }
    }
}

/// The tensors and RoIs that a [`Graph`] owns.
pub struct Tensors {
    graph: u64,
    /// A slot is `None` while a run writes its tensor.
    slots: Vec<Option<Box<dyn Any + Send + Sync>>>,
    /// The work that uses each tensor. A replay uses all of them.
    uses: Vec<Arc<Uses>>,
}

impl fmt::Debug for Tensors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tensors", self.slots.len())
    }
}

impl Tensors {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { graph: NEXT.fetch_add(1, Ordering::Relaxed), slots: vec![], uses: vec![] }
    }

    fn push<T>(&mut self, value: Box<dyn Any + Send + Sync>, uses: Arc<Uses>) -> Slot<T> {
        self.uses.push(uses);
        self.slots.push(Some(value));
        Slot { graph: self.graph, index: self.slots.len() - 1, tensor: PhantomData }
    }

    fn get<T, V: 'static>(&self, slot: Slot<T>) -> Result<&V> {
        let other = || Error::Attribute { name: "the slot", value: format!("{}", slot.index), requirement: "a tensor of this graph" };
        let requirement = "another tensor than the run's output: Inputs::accumulate adds to that";
        let written = || Error::Attribute { name: "an input", value: format!("slot {}", slot.index), requirement };
        let found = self.slots.get(slot.index).filter(|_| slot.graph == self.graph).ok_or_else(other)?;
        found.as_ref().ok_or_else(written)?.downcast_ref().ok_or_else(other)
    }

    /// A tensor of the graph, for reading.
    ///
    /// # Errors
    /// [`Error::Attribute`] for a slot of another graph, and for the tensor that the run writes.
    pub fn view<T: Element>(&self, slot: Slot<T>) -> Result<TensorView<'_, T>> {
        Ok(self.get::<T, Tensor<T>>(slot)?.view())
    }

    /// Regions of interest of the graph, for reading.
    ///
    /// # Errors
    /// As [`Tensors::view`].
    pub fn rois(&self, slot: Slot<RoIs>) -> Result<RoisView<'_>> {
        Ok(self.get::<RoIs, RoIs>(slot)?.view())
    }

    /// Calls `body` with the tensor that a run writes. Meanwhile that tensor is not among the
    /// others.
    fn with_output<T: Element, R>(&mut self, target: &Target<T>, body: impl FnOnce(&Self, TensorViewMut<'_, T>) -> Result<R>) -> Result<R> {
        let slot = target.slot;
        self.get::<T, Tensor<T>>(slot)?;
        let Some(mut taken) = self.slots[slot.index].take() else { unreachable!("it was just found there") };
        let result = match taken.downcast_mut::<Tensor<T>>() {
            Some(tensor) => match &target.channels {
                Some(range) => tensor.channels_mut(range.clone()).and_then(|y| body(self, y)),
                None => body(self, tensor.view_mut()),
            },
            None => unreachable!("its type was just checked"),
        };
        self.slots[slot.index] = Some(taken);
        result
    }
}

/// The recorder into which the closure of [`Graph::capture`] records runs.
#[derive(Debug)]
pub struct Recorder<'d> {
    device: &'d Device,
    tensors: Tensors,
    steps: Steps,
    workspace_bytes: usize,
}

struct Steps(Vec<Step>);

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} runs", self.0.len())
    }
}

impl Recorder<'_> {
    /// Moves a tensor into the graph.
    pub fn tensor<T: Element>(&mut self, tensor: Tensor<T>) -> Slot<T> {
        let uses = tensor.uses().clone();
        self.tensors.push(Box::new(tensor), uses)
    }

    /// Moves regions of interest into the graph.
    pub fn rois(&mut self, rois: RoIs) -> Slot<RoIs> {
        let uses = rois.uses().clone();
        self.tensors.push(Box::new(rois), uses)
    }

    /// Adds a run of `plan` to the graph, after the runs that are there. It reads the inputs that
    /// `inputs` makes of the graph's tensors, and writes `y`. Nothing is computed before the first
    /// replay.
    ///
    /// # Errors
    /// Those of [`Plan::run`], for the tensors as they are now; [`Error::Attribute`] if a run reads
    /// the tensor that it writes.
    pub fn run<T: Element>(
        &mut self,
        plan: impl Into<Arc<Plan<T>>>,
        inputs: impl for<'r> Fn(&'r Tensors) -> Result<Inputs<'r, T>> + Send + Sync + 'static,
        y: impl Into<Target<T>>,
    ) -> Result<()> {
        let (plan, y) = (plan.into(), y.into());
        self.tensors.with_output(&y, |tensors, y| plan.check_run(&inputs(tensors)?, &y, self.device))?;
        self.workspace_bytes = self.workspace_bytes.max(plan.workspace_bytes());
        self.steps.0.push(Box::new(move |tensors, workspace, stream| {
            tensors.with_output(&y, |tensors, y| plan.run(&inputs(tensors)?, y, workspace.workspace(), stream))
        }));
        Ok(())
    }
}

impl Graph {
    /// Captures the runs that `record` records, on a device.
    ///
    /// # Errors
    /// What `record` returns; [`Error::OutOfMemory`] for the workspace; [`Error::Driver`] when the
    /// capture fails.
    pub fn capture(device: &Device, record: impl FnOnce(&mut Recorder<'_>) -> Result<()>) -> Result<Self> {
        let mut recorder = Recorder { device, tensors: Tensors::new(), steps: Steps(vec![]), workspace_bytes: 0 };
        record(&mut recorder)?;
        let Recorder { mut tensors, steps: Steps(steps), workspace_bytes, .. } = recorder;
        let mut workspace = WorkspaceMemory::new(device, workspace_bytes)?;
        tensors.uses.push(workspace.uses().clone());
        let mut all = |stream: &Stream| steps.iter().try_for_each(|step| step(&mut tensors, &mut workspace, stream));
        // SAFETY: the plans are in the steps, which this graph owns with the tensors and the workspace; none of them can be taken out
        // or replaced, and `captured` goes before them
        let captured = unsafe { capture(device, &mut all)? };
        Ok(Self { captured, steps, tensors, workspace, device: device.clone() })
    }

    /// Does all runs on `stream`. On a GPU the work is queued and the call returns; on the host
    /// device it is done on return.
    ///
    /// # Errors
    /// [`Error::WrongDevice`] for a stream of another device; a failed launch.
    pub fn replay(&mut self, stream: &Stream) -> Result<()> {
        if stream.device() != &self.device {
            return Err(Error::WrongDevice { name: "the stream", expected: self.device.to_string(), got: stream.device().to_string() });
        }
        let replayed = self.captured.replay(stream);
        self.tensors.uses.iter().for_each(|uses| uses.record(stream));
        if replayed? {
            return Ok(());
        }
        let Self { steps, tensors, workspace, .. } = self;
        steps.iter().try_for_each(|step| step(tensors, workspace, stream))
    }

    /// A tensor of the graph, for reading. [`TensorView::to_vec`] waits for the replays that are
    /// queued.
    ///
    /// # Errors
    /// [`Error::Attribute`] for a slot of another graph.
    pub fn view<T: Element>(&self, slot: Slot<T>) -> Result<TensorView<'_, T>> {
        self.tensors.view(slot)
    }

    /// A tensor of the graph, for writing. [`TensorViewMut::write`] waits for the replays that are
    /// queued.
    ///
    /// # Errors
    /// As [`Graph::view`].
    pub fn view_mut<T: Element>(&mut self, slot: Slot<T>) -> Result<TensorViewMut<'_, T>> {
        self.tensors.get::<T, Tensor<T>>(slot)?;
        let tensor = self.tensors.slots[slot.index].as_mut().and_then(|slot| slot.downcast_mut::<Tensor<T>>());
        match tensor {
            Some(tensor) => Ok(tensor.view_mut()),
            None => unreachable!("it was just found there"),
        }
    }

    /// The device on which the graph runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The number of runs in a replay.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}
