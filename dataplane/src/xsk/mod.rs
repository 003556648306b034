//! AF_XDP: the only place with unsafe code.
