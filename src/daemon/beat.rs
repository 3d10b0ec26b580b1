//! What wakes the daemon's loop each minute, and when systemd is to hear from it.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};

use crate::lifecycle::systemd;

/// A job each minute that does nothing but wake the loop. Slots are computed by [`crate::schedule`].
pub(super) async fn ticker(wake: Arc<Notify>) -> Result<JobScheduler, JobSchedulerError> {
    let scheduler = JobScheduler::new().await?;
    scheduler.add(Job::new("0 * * * * *", move |_, _| wake.notify_one())?).await?;
    scheduler.start().await?;
    Ok(scheduler)
}

/// When systemd is to hear that the daemon gets on; never, where it does not ask.
pub(super) struct Watchdog(Option<tokio::time::Interval>);

impl Watchdog {
    pub(super) fn new() -> Watchdog {
        Watchdog(systemd::watchdog_interval().map(|interval| {
            let mut interval = tokio::time::interval(interval);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            interval
        }))
    }

    pub(super) async fn due(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}
