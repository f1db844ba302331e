//! The attributes of Focus.

use super::Conv2dSpec;
use serde::{Deserialize, Serialize};

/// The attributes of a [`Focus`](crate::Focus): those of its convolution.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FocusSpec {
    /// The convolution that is applied to the slices.
    pub conv: Conv2dSpec,
}
