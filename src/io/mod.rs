//! Tensors in files, in the safetensors format; and files that are written completely or not at
//! all.
//!
//! ```
//! use warpconv::{AnyTensor, Device, Tensor, io::{TensorFile, save}};
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("x.safetensors");
//! let device = Device::best()?;
//! let x: AnyTensor = Tensor::from_slice(&device, [1, 1, 1, 3], &[0.5f32, 1.0, 2.0])?.into();
//! save(&path, &[("x", &x)])?;
//!
//! let file = TensorFile::open(&path)?;
//! assert_eq!(file.shape("x")?, [1, 1, 1, 3]);
//! let x = file.tensor::<half::f16>("x", &device)?; // rounded once
//! assert_eq!(file.values("x")?, [0.5, 1.0, 2.0]);
//! # Ok::<(), warpconv::Error>(())
//! ```

mod save;
mod tensor_file;

use crate::files::read;
pub use crate::files::{read_text, write, write_pieces};
pub use save::save;
pub use tensor_file::{Scope, TensorFile};
