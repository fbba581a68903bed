//! Journal to event to route to producer to positions.
