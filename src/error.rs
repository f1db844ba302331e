//! The crate's error type.

use std::path::PathBuf;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, together with the values that caused it.
///
/// Everything that depends on shapes, attributes or weights is refused when a layer or a plan is
/// built, before any launch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A plan was run on a stream that is being captured in a CUDA graph. The graph would hold
    /// addresses of memory that may be freed before it is replayed.
    #[error(
        "the stream is being captured in a CUDA graph, which would not keep alive what this run uses: capture with warpconv::Graph, or promise to keep it alive with Stream::allow_capture"
    )]
    Capturing,
    /// An attribute of a layer is outside its domain.
    #[error("{name} is {value}, but must be {requirement}")]
    Attribute {
        /// The attribute's name.
        name: &'static str,
        /// The value given.
        value: String,
        /// What the value must be.
        requirement: &'static str,
    },
    /// A tensor has the wrong number of dimensions.
    #[error("{name} has shape {shape:?} (rank {}), but must have rank {expected}: {meaning}", shape.len())]
    Rank {
        /// The tensor's name.
        name: &'static str,
        /// The shape given.
        shape: Vec<usize>,
        /// The rank it must have.
        expected: usize,
        /// What each dimension means.
        meaning: &'static str,
    },
    /// A tensor's shape does not fit the layer or the other tensors.
    #[error("{name} has shape {shape:?}, but must have {expected}")]
    Shape {
        /// The tensor's name.
        name: &'static str,
        /// The shape given.
        shape: Vec<usize>,
        /// What the shape must be.
        expected: String,
    },
    /// The values of a weight are needed, but the layer was told to forget them.
    #[error("the weight's values are gone (forget_host_weights), but are needed for {needed_for}: plan for it before")]
    Forgotten {
        /// The operation that needs the values.
        needed_for: String,
    },
    /// A workspace is smaller than the plan needs.
    #[error(
        "the plan needs a workspace of {needed} bytes, but got one of {got}: make it by WorkspaceMemory::new(device, plan.workspace_bytes())"
    )]
    Workspace {
        /// The size that [`crate::Plan::workspace_bytes`] returns.
        needed: usize,
        /// The size of the workspace that was given.
        got: usize,
    },
    /// A number of channels is not divisible as the layer needs.
    #[error("{name} is {value}, which is not divisible by {divisor_name} = {divisor}{context}")]
    Divisibility {
        /// The name of the number that must be divisible.
        name: &'static str,
        /// Its value.
        value: usize,
        /// The name of the divisor.
        divisor_name: &'static str,
        /// The divisor's value.
        divisor: usize,
        /// More about the cause, appended to the message; may be empty.
        context: String,
    },
    /// The output would have no rows or no columns.
    #[error(
        "the output {axis} is not positive: a kernel of {kernel} with dilation {dilation} spans {span} and does not fit an input {axis} of {input} with padding {before} + {after}"
    )]
    EmptyOutput {
        /// "height" or "width".
        axis: &'static str,
        /// Input size.
        input: usize,
        /// Padding before.
        before: usize,
        /// Padding after.
        after: usize,
        /// Kernel size.
        kernel: usize,
        /// Dilation rate.
        dilation: usize,
        /// dilation * (kernel - 1) + 1.
        span: usize,
    },
    /// The output of a transposed convolution would have no rows or no columns.
    #[error(
        "the output {axis} is not positive: an input {axis} of {input} with stride {stride} spreads over {full}, of which the padding cuts off {before} + {after}"
    )]
    EmptyTransposedOutput {
        /// "height" or "width".
        axis: &'static str,
        /// Input size.
        input: usize,
        /// Stride.
        stride: usize,
        /// (input - 1) * stride + dilation * (kernel - 1) + 1 + output_padding.
        full: usize,
        /// Padding before.
        before: usize,
        /// Padding after.
        after: usize,
    },
    /// A size is too large to be computed in 64 bits.
    #[error("{what} overflows: {values}")]
    Overflow {
        /// The name of the quantity.
        what: &'static str,
        /// The values that it is computed from.
        values: String,
    },
    /// A configuration is beyond a limit of the kernels or of the device.
    #[error("{what} is {value}, above the limit of {limit}")]
    Limit {
        /// The name of the limited quantity.
        what: &'static str,
        /// The value given.
        value: u128,
        /// The largest value allowed.
        limit: u128,
    },
    /// A run would compute or move more than is allowed.
    #[error("{op} would do {flops} FLOPs and move {bytes} bytes, but no more than {max_flops} FLOPs and {max_bytes} bytes are allowed")]
    Work {
        /// The layer's op.
        op: &'static str,
        /// Floating-point operations of the run.
        flops: u64,
        /// Bytes that the run reads and writes, each tensor counted once.
        bytes: u64,
        /// The most FLOPs allowed.
        max_flops: u64,
        /// The most bytes allowed.
        max_bytes: u64,
    },
    /// The number of elements given does not fit the shape.
    #[error("{name}: shape {shape:?} has {expected} elements, but {got} were given")]
    Length {
        /// The tensor's name.
        name: &'static str,
        /// The tensor's shape.
        shape: Vec<usize>,
        /// The number of elements of that shape.
        expected: usize,
        /// The number of elements given.
        got: usize,
    },
    /// A tensor is in another memory format than the plan was built for.
    #[error(
        "{name} is {got}, but the plan was built for {expected}: convert it (Tensor::to_format), or plan for its format (PlanRequest::format)"
    )]
    Format {
        /// The tensor's name.
        name: &'static str,
        /// The plan's format.
        expected: crate::MemoryFormat,
        /// The tensor's format.
        got: crate::MemoryFormat,
    },
    /// A tensor has another dtype than the operation needs.
    #[error("{name} is {got}, but must be {expected}")]
    DType {
        /// The tensor's name.
        name: String,
        /// The dtype needed.
        expected: String,
        /// The dtype given.
        got: String,
    },
    /// Tensors, streams or plans of different devices were mixed.
    #[error("{name} is on {got}, but the operation runs on {expected}")]
    WrongDevice {
        /// The name of the tensor, stream or plan on the wrong device.
        name: &'static str,
        /// The device needed.
        expected: String,
        /// The device given.
        got: String,
    },
    /// The output's memory overlaps an input's.
    #[error(
        "the output overlaps the memory of {name} (addresses {start:#x}..{end:#x}), but needs its own; to add to what it holds, there is Inputs::accumulate"
    )]
    Aliased {
        /// The input.
        name: &'static str,
        /// The first address that both use.
        start: u64,
        /// The end of the addresses that both use.
        end: u64,
    },
    /// An address is not aligned as the elements need.
    #[error("{name} is at address {address:#x}, which is not aligned to {alignment} bytes")]
    Alignment {
        /// The tensor's name.
        name: &'static str,
        /// Its address.
        address: u64,
        /// The alignment needed.
        alignment: usize,
    },
    /// The layer needs a tensor that was not given.
    #[error("{op} needs {name}, which was not given{available}")]
    MissingTensor {
        /// The layer's op.
        op: &'static str,
        /// The tensor's name.
        name: String,
        /// The tensors that were given instead, as " (there are: ...)", and their file if it is
        /// known. May be empty.
        available: String,
    },
    /// A tensor was given that the layer does not know.
    #[error("{op} has no {name}; it takes {known}")]
    UnexpectedTensor {
        /// The layer's op.
        op: &'static str,
        /// The tensor's name.
        name: String,
        /// The names that the layer takes, and which of them may be meant.
        known: String,
    },
    /// A filter is not the product of a column and a row.
    #[error("the kernel is not separable: its second singular value is {second}, its first {first}")]
    NotSeparable {
        /// The largest singular value.
        first: f64,
        /// The second largest singular value. It is the distance of the kernel from the nearest
        /// separable one, and 0 for a separable kernel.
        second: f64,
    },
    /// A weight is infinite or NaN in the dtype of a plan.
    #[error("{name} is {value:?} at {position:?} of {shape:?}, which is not finite in {dtype}: Parameter::allow_non_finite allows it")]
    NonFinite {
        /// The weight's name.
        name: &'static str,
        /// The first value that is not finite, as the layer holds it.
        value: f32,
        /// The indices of that value.
        position: Vec<usize>,
        /// The weight's shape.
        shape: Vec<usize>,
        /// The dtype of the plan.
        dtype: crate::DType,
    },
    /// No kernel can run this configuration.
    #[error("no kernel of {op} applies: {reasons}")]
    NoKernel {
        /// The layer's op.
        op: &'static str,
        /// Each candidate with the reason why it does not apply.
        reasons: String,
    },
    /// A device is not available.
    #[error("device {requested} is not available: {why}")]
    DeviceUnavailable {
        /// The device that was requested.
        requested: String,
        /// Why it is not available, and what to do.
        why: String,
    },
    /// The GPU can run none of the machine code embedded in this build.
    #[error(
        "{gpu} (compute capability {capability}) can run none of the code in this build ({embedded}): rebuild with WARPCONV_CUDA_ARCHS={capability_number}"
    )]
    NoKernelImage {
        /// The GPU's name.
        gpu: String,
        /// The GPU's compute capability, such as "9.0".
        capability: String,
        /// The same number as WARPCONV_CUDA_ARCHS expects it, such as "90".
        capability_number: String,
        /// The architectures for which the build has code.
        embedded: String,
    },
    /// The driver is older than the code embedded in this build.
    #[error(
        "the CUDA driver supports CUDA {driver}, but this build's code needs {needed}: update the driver, or rebuild with an older nvcc or with machine code for this GPU (WARPCONV_CUDA_ARCHS)"
    )]
    DriverTooOld {
        /// The CUDA version that the driver supports, such as "12.4".
        driver: String,
        /// The CUDA version with which the code was compiled, such as "13.0".
        needed: String,
    },
    /// A call of the CUDA driver failed.
    #[error("{call} failed: {message}")]
    Driver {
        /// The name of the call.
        call: &'static str,
        /// The driver's number for the failure (`CUresult`), such as 2 for out of memory. 0 if the
        /// call succeeded but returned something unusable.
        code: u32,
        /// The driver's message.
        message: String,
    },
    /// The GPU is lost to this process: a kernel made an illegal access, failed or hung. Every
    /// further call on the device returns this error. A new process can use the GPU again.
    #[error("the device is lost: {call} failed ({message}); under way: {}", if kernel.is_empty() { "no kernel" } else { kernel })]
    DeviceLost {
        /// The kernels launched since the last wait, separated by commas, the latest last. Empty if
        /// there were none.
        kernel: String,
        /// The call that reported the failure first. A kernel's failure is reported by a later call
        /// than its launch.
        call: &'static str,
        /// The driver's number for the failure (`CUresult`), such as 700 for an illegal address.
        /// `None` if a wait was given up.
        code: Option<u32>,
        /// The driver's message.
        message: String,
    },
    /// Device memory could not be allocated.
    #[error("could not allocate {bytes} bytes on {device}: {message}")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
        /// The device.
        device: String,
        /// The allocator's message.
        message: String,
    },
    /// An allocation would exceed the limit that was set for a device's memory.
    #[error("{asked} bytes on {device} would exceed its memory limit of {limit} bytes: {held} are held")]
    MemoryLimit {
        /// The device.
        device: String,
        /// The limit in bytes: [`MemoryOptions::limit`](crate::MemoryOptions::limit).
        limit: u64,
        /// Bytes asked for.
        asked: u64,
        /// Bytes that the device holds, and, if the limit would not be exceeded without them, bytes
        /// that are freed but still in use.
        held: u64,
    },
    /// A kernel failed while it ran.
    #[error("kernel {kernel} failed: {}", findings.join("; "))]
    Kernel {
        /// The kernel's name.
        kernel: &'static str,
        /// The findings, each with block and thread.
        findings: Vec<String>,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file or text is not what it should be.
    #[error("{source_name}: {message}")]
    Parse {
        /// The file or the kind of text.
        source_name: String,
        /// What is wrong.
        message: String,
    },
    /// A failure in a layer that has a name.
    #[error("{layer}: {source}")]
    InLayer {
        /// The layer's name, as [`Error::in_layer`] was given it.
        layer: String,
        /// The failure.
        source: Box<Error>,
    },
    /// A feature that this build was made without is needed.
    #[error("this build has no {feature}: build with --features {feature}")]
    MissingFeature {
        /// The cargo feature.
        feature: &'static str,
    },
}

/// What sort of failure an [`Error`] is: which part of a service should handle it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call itself is wrong, whatever the sizes of the tensors: an attribute outside its
    /// domain, a missing tensor, a wrong dtype, memory format or device, aliased or misaligned
    /// memory, a feature that this build lacks.
    Usage,
    /// A shape does not fit the layer, the other tensors or the limits of the kernels. In a service
    /// this is usually a bad request.
    Shape,
    /// There is not enough memory or workspace, or the run would do more work than is allowed. The
    /// same call may succeed later, or with a smaller batch.
    Resource,
    /// The device, its driver or a kernel failed, or the device is not available.
    Device,
    /// A file or text could not be read or written, or has wrong contents.
    Io,
}

impl Error {
    /// What sort of failure this is.
    ///
    /// ```
    /// use warpconv::{Device, Error, ErrorKind, Tensor};
    /// let error = Tensor::from_slice(&Device::best()?, [1, 1, 2, 2], &[0f32; 3]).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Shape);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Capturing
            | Error::Attribute { .. }
            | Error::Format { .. }
            | Error::DType { .. }
            | Error::WrongDevice { .. }
            | Error::Aliased { .. }
            | Error::Alignment { .. }
            | Error::MissingTensor { .. }
            | Error::UnexpectedTensor { .. }
            | Error::Forgotten { .. }
            | Error::NotSeparable { .. }
            | Error::NonFinite { .. }
            | Error::NoKernel { .. }
            | Error::MissingFeature { .. } => ErrorKind::Usage,
            Error::Rank { .. }
            | Error::Shape { .. }
            | Error::Length { .. }
            | Error::Divisibility { .. }
            | Error::EmptyOutput { .. }
            | Error::EmptyTransposedOutput { .. }
            | Error::Overflow { .. }
            | Error::Limit { .. } => ErrorKind::Shape,
            Error::Workspace { .. } | Error::Work { .. } | Error::OutOfMemory { .. } | Error::MemoryLimit { .. } => ErrorKind::Resource,
            Error::DeviceUnavailable { .. }
            | Error::NoKernelImage { .. }
            | Error::DriverTooOld { .. }
            | Error::Driver { .. }
            | Error::DeviceLost { .. }
            | Error::Kernel { .. } => ErrorKind::Device,
            Error::Io { .. } | Error::Parse { .. } => ErrorKind::Io,
            Error::InLayer { source, .. } => source.kind(),
        }
    }

    /// The CUDA driver's number for the failure (`CUresult`): 700 for an illegal address. `None` for failures that are not the
    /// driver's.
    pub fn cuda_code(&self) -> Option<u32> {
        match self {
            Error::Driver { code, .. } => Some(*code),
            Error::DeviceLost { code, .. } => *code,
            Error::InLayer { source, .. } => source.cuda_code(),
            _ => None,
        }
    }

    /// Whether every further call on the device will fail too, so that only a new process can go on: true for
    /// [`Error::DeviceLost`]. A service should stop taking requests and restart.
    pub fn is_sticky(&self) -> bool {
        match self {
            Error::DeviceLost { .. } => true,
            Error::InLayer { source, .. } => source.is_sticky(),
            _ => false,
        }
    }

    /// The same failure with the name of the layer that it happened in, such as
    /// "backbone.layer1.0.conv2", before its message.
    pub fn in_layer(self, layer: impl Into<String>) -> Self {
        Error::InLayer { layer: layer.into(), source: Box::new(self) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layers_name_changes_the_message_alone() {
        let lost = Error::DeviceLost { kernel: "k".into(), call: "cuStreamSynchronize", code: Some(700), message: "illegal".into() };
        let words = lost.to_string();
        let named = lost.in_layer("stem.conv").in_layer("backbone");
        assert_eq!(named.to_string(), format!("backbone: stem.conv: {words}"));
        assert_eq!((named.kind(), named.cuda_code(), named.is_sticky()), (ErrorKind::Device, Some(700), true));
        let memory = Error::OutOfMemory { bytes: 1, device: "host".into(), message: "none".into() }.in_layer("a");
        assert_eq!((memory.kind(), memory.cuda_code(), memory.is_sticky()), (ErrorKind::Resource, None, false));
        assert!(std::error::Error::source(&memory).is_some_and(|source| source.to_string().contains("1 bytes")));
    }
}
