//! Signals and systemd: how the process is told to stop or reload, and how it tells how it is.

use std::io;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::Origin;
use signal_hook_tokio::SignalsInfo;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Finish the batch in flight and end; the second time, end at once.
    Stop,
    /// Read the configuration again.
    Reload,
}

/// A signal, and who sent it where the system tells.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// What it asks for.
    pub ask: Ask,
    /// The process that sent it.
    pub from_process: Option<i32>,
    /// The account that sent it.
    pub from_user: Option<u32>,
}

/// The signals of this process.
pub struct Signals(SignalsInfo<WithOrigin>);

impl Signals {
    /// Begins to listen: from now on these signals no longer end the process by themselves.
    ///
    /// # Errors
    /// When the system does not let it.
    pub fn listen() -> io::Result<Signals> {
        Ok(Signals(SignalsInfo::new([SIGTERM, SIGINT, SIGHUP])?))
    }

    /// The next signal.
    pub async fn next(&mut self) -> Option<Received> {
        let origin: Origin = self.0.next().await?;
        Some(Received {
            ask: if origin.signal == SIGHUP { Ask::Reload } else { Ask::Stop },
            from_process: origin.process.map(|process| process.pid),
            from_user: origin.process.map(|process| process.uid),
        })
    }
}

/// For commands: the first signal cancels the token, the second ends the process at once.
///
/// # Errors
/// When the system does not let this process listen for signals.
pub fn stop_on_signals() -> io::Result<CancellationToken> {
    let mut signals = Signals::listen()?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        while signals.next().await.is_some() {
            if token.is_cancelled() {
                // Nothing is lost: what is in flight is resolved at the next start.
                std::process::exit(130);
            }
            tracing::warn!("stopping after the batch in flight; once more ends at once");
            token.cancel();
        }
    });
    Ok(stop)
}

/// What systemd is told, where it started this process; elsewhere nothing happens.
pub mod systemd {
    use sd_notify::NotifyState;

    use super::Duration;

    fn tell(states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states) {
            tracing::warn!(%error, "systemd could not be told");
        }
    }

    /// The daemon is ready, or has finished a reload.
    pub fn ready(status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// A reload begins.
    pub fn reloading() {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    /// The daemon is about to end, and may take so long for it.
    pub fn stopping(within: Duration) {
        let micros = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
        tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros)]);
    }

    /// The daemon still makes progress.
    pub fn alive() {
        tell(&[NotifyState::Watchdog]);
    }

    /// How often [`alive`] is to be called: half of what the unit allows.
    pub fn watchdog_interval() -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|allowed| allowed / 2)
    }
}
