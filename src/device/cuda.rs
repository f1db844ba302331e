//! GPUs, through cudarc.
