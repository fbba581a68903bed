//! Command to topic and key.
