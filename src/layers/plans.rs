//! Plans for shapes that change from run to run: one plan for each batch size, and a bounded cache
//! of plans.

use super::{Inputs, Layer, Plan, PlanRequest, Workspace};
use crate::error::{Error, Result};
use crate::tensor::TensorViewMut;
use crate::{Device, Element, Shape, Stream};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A plan for each batch size from 1 to a largest one, for a service that puts all waiting requests
/// into one batch.
///
/// [`Layer::plan_up_to_batch`] makes one. The plans share packed weights, so each costs some
/// kilobytes and the time of [`Layer::plan`]. Each has the fastest kernel for its batch size.
/// Running allocates nothing.
///
/// ```
/// use warpconv::{Conv2d, Conv2dSpec, Device, Inputs, Layer, MemoryFormat, Parameter, PlanRequest, Stream, Tensor, Workspace};
/// # fn main() -> warpconv::Result<()> {
/// let device = Device::best()?;
/// let layer = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[4, 3, 1, 1], &[0.5f32; 12])?)?;
/// let plans = layer.plan_up_to_batch::<f32>(&device, &PlanRequest::new([8, 3, 16, 16]))?;
///
/// // one pair of tensors for the largest batch; this time three images have come
/// let x = Tensor::<f32>::randn(&device, [8, 3, 16, 16], MemoryFormat::Contiguous, 1)?;
/// let mut y = Tensor::<f32>::zeros(&device, [8, 4, 16, 16], MemoryFormat::Contiguous)?;
/// plans.run(&Inputs::new(x.images(0..3)?), y.images_mut(0..3)?, Workspace::none(), &Stream::default_of(&device))?;
/// assert_eq!(y.images(0..3)?.to_vec()?, layer.forward(&Inputs::new(x.images(0..3)?))?.to_vec()?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct BatchPlans<T: Element> {
    /// Plans by batch size: the plan for N images is at index N - 1.
    plans: Vec<Plan<T>>,
}

impl<T: Element> BatchPlans<T> {
    pub(super) fn new(layer: &impl Layer, device: &Device, request: &PlanRequest) -> Result<Self> {
        let [most, c, h, w] = request.x;
        if request.rois.is_some() {
            let name = "plan_up_to_batch";
            return Err(Error::Attribute {
                name,
                value: "a request with RoIs".into(),
                requirement: "one without: their batch is that of x",
            });
        }
        if most == 0 || most > Self::MOST {
            return Err(Error::Attribute { name: "the largest batch", value: most.to_string(), requirement: "1 to 4096" });
        }
        let plan = |n: usize| layer.plan(device, &PlanRequest { x: [n, c, h, w], ..request.clone() });
        Ok(Self { plans: (1..=most).map(plan).collect::<Result<_>>()? })
    }

    /// The largest batch size for which plans are made.
    const MOST: usize = 4096;

    /// The plan for `images` images; `None` for 0 and above the largest batch.
    pub fn get(&self, images: usize) -> Option<&Plan<T>> {
        self.plans.get(images.checked_sub(1)?)
    }

    /// The largest batch size.
    pub fn largest(&self) -> usize {
        self.plans.len()
    }

    /// The shape of the output for the largest batch size.
    pub fn output_shape(&self) -> Shape {
        self.plans.last().map_or([0; 4], Plan::output_shape)
    }

    /// Bytes of workspace that are enough for every batch size.
    pub fn workspace_bytes(&self) -> usize {
        self.plans.iter().map(Plan::workspace_bytes).max().unwrap_or(0)
    }

    /// Runs the plan for the number of images that x has. Otherwise as [`Plan::run`].
    ///
    /// # Errors
    /// [`Error::Shape`] when x has no image, or more than the largest batch; otherwise as
    /// [`Plan::run`].
    pub fn run<'y>(
        &self,
        inputs: &Inputs<'_, T>,
        y: impl Into<TensorViewMut<'y, T>>,
        workspace: Workspace<'_>,
        stream: &Stream,
    ) -> Result<()> {
        let shape = inputs.x.shape();
        let plan = self.get(shape[0]).ok_or_else(|| {
            let expected = format!("between 1 and {} images", self.largest());
            Error::Shape { name: "x", shape: shape.to_vec(), expected }
        })?;
        plan.run(inputs, y, workspace, stream)
    }
}

/// A cache of a layer's plans for the requests that were used last. The threads of a service whose
/// inputs differ in size can share it.
///
/// The cache holds a bounded number of plans, and drops the one that was used longest ago. A hit
/// takes well under a microsecond (benches/criterion/plans.rs measures it).
///
/// ```
/// use warpconv::{Conv2d, Conv2dSpec, Device, Parameter, PlanCache, PlanRequest};
/// let layer = Conv2d::new(Conv2dSpec::default(), Parameter::new(&[4, 3, 1, 1], &[0.5f32; 12])?)?;
/// let plans = PlanCache::<_, f32>::new(layer, &Device::best()?, 16);
/// for side in [32, 48, 32] {
///     let plan = plans.get(&PlanRequest::new([1, 3, side, side]))?;
///     assert_eq!(plan.output_shape(), [1, 4, side, side]);
/// }
/// assert_eq!(plans.len(), 2);
/// # Ok::<(), warpconv::Error>(())
/// ```
pub struct PlanCache<L, T: Element> {
    layer: L,
    device: Device,
    capacity: usize,
    state: Mutex<State<T>>,
}

struct State<T: Element> {
    plans: HashMap<PlanRequest, Entry<T>>,
    /// The number of uses so far. The entry with the smallest count was used longest ago.
    uses: u64,
}

struct Entry<T: Element> {
    plan: Arc<Plan<T>>,
    used: u64,
}

impl<L, T: Element> fmt::Debug for PlanCache<L, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlanCache of {} of at most {} plans on {}", self.len(), self.capacity, self.device)
    }
}

impl<L, T: Element> PlanCache<L, T> {
    /// How many plans the cache holds now.
    pub fn len(&self) -> usize {
        self.state().plans.len()
    }

    /// Whether the cache holds no plan.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The layer whose plans these are.
    pub fn layer(&self) -> &L {
        &self.layer
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L: Layer, T: Element> PlanCache<L, T> {
    /// An empty cache for at most `capacity` plans; a capacity of 0 counts as 1.
    pub fn new(layer: L, device: &Device, capacity: usize) -> Self {
        let state = Mutex::new(State { plans: HashMap::new(), uses: 0 });
        Self { layer, device: device.clone(), capacity: capacity.max(1), state }
    }

    /// The plan for a request: from the cache, or a new one. Other threads are not blocked while a
    /// new plan is made.
    ///
    /// # Errors
    /// As [`Layer::plan`].
    pub fn get(&self, request: &PlanRequest) -> Result<Arc<Plan<T>>> {
        {
            let mut state = self.state();
            state.uses += 1;
            let uses = state.uses;
            if let Some(entry) = state.plans.get_mut(request) {
                entry.used = uses;
                return Ok(entry.plan.clone());
            }
        }
        let plan = Arc::new(self.layer.plan(&self.device, request)?);
        let mut state = self.state();
        let used = state.uses;
        if let Some(entry) = state.plans.get(request) {
            return Ok(entry.plan.clone()); // another thread was faster
        }
        let oldest = state.plans.iter().min_by_key(|(_, entry)| entry.used).map(|(request, _)| request.clone());
        let gone = if state.plans.len() >= self.capacity { oldest.and_then(|oldest| state.plans.remove(&oldest)) } else { None };
        state.plans.insert(request.clone(), Entry { plan: plan.clone(), used });
        drop(state);
        drop(gone); // may free memory, which waits for the GPU: outside the lock
        Ok(plan)
    }
}
