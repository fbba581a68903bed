//! The versioned envelope.
