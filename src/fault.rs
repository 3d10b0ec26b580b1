//! Points at which a test has the process die, as a crash would end it: nothing is flushed, nothing is
//! dropped.
//!
//! They are there only with the feature `fault-points`. `FAILPOINTS="name=2*off->return"` ends the
//! process at the third passage of the point of that name.

/// A place at which the process may be made to die.
#[cfg(feature = "fault-points")]
pub(crate) fn point(name: &str) {
    fail::fail_point!(name, |_| std::process::abort());
}

/// A place at which the process may be made to die, if it were built for that.
#[cfg(not(feature = "fault-points"))]
#[inline]
pub(crate) fn point(_name: &str) {}

/// Has the environment say which points are deadly, until the process ends.
#[cfg(feature = "fault-points")]
pub(crate) fn read_environment() {
    std::mem::forget(fail::FailScenario::setup());
}

/// Does nothing: there are no such points here.
#[cfg(not(feature = "fault-points"))]
#[inline]
pub(crate) fn read_environment() {}
