//! Wiring: the only module that knows all the others; start order, stop order.
