//! The seam between the journal and the disk.

/// A file system as the journal uses one.
pub trait Storage: Send + Sync + std::fmt::Debug {}

/// The real file system.
#[derive(Debug, Default)]
pub struct Disk;

impl Storage for Disk {}
