//! The other side: Chat's callbacks as load, and the proof that all arrived.
