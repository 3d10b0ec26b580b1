//! `[api]`: where events come in.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::reader::{Reader, Wrong, quoted};
use super::text::Kind;
use super::{Problem, Secret, urls};

/// Where events come in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiConfig {
    /// Whether they do at all; they do by default.
    pub enabled: bool,
    /// The Unix socket; by default `api.sock` beside the folder of the keys.
    pub socket: PathBuf,
    /// The permissions of the socket; its owner and its group may use it by default.
    pub mode: u32,
    /// The group that the socket is given to; by default the daemon's own.
    pub group: Option<String>,
    /// TCP besides; not by default.
    pub tcp: Option<TcpConfig>,
}

/// Where events come in by TCP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TcpConfig {
    /// The address and port.
    pub listen: SocketAddr,
    /// What whoever connects has to know.
    pub token: Secret,
}

impl ApiConfig {
    /// What holds where nothing is written, with the keys in this folder.
    pub(super) fn beside(keys: &Path) -> ApiConfig {
        let socket = keys.parent().unwrap_or(keys).join("api.sock");
        ApiConfig { enabled: true, socket, mode: 0o660, group: None, tcp: None }
    }
}

/// What is written; what is not comes from [`ApiConfig::beside`].
pub(super) struct Written {
    enabled: Option<bool>,
    socket: Option<PathBuf>,
    mode: Option<u32>,
    group: Option<String>,
    tcp: Option<TcpConfig>,
}

impl Written {
    pub(super) fn over(self, default: ApiConfig) -> ApiConfig {
        ApiConfig {
            enabled: self.enabled.unwrap_or(default.enabled),
            socket: self.socket.unwrap_or(default.socket),
            mode: self.mode.unwrap_or(default.mode),
            group: self.group,
            tcp: self.tcp,
        }
    }
}

/// Reads the table.
pub(super) fn read(reader: &mut Reader<'_>) -> Written {
    let socket = reader.word("socket", "\"/run/expunged/api.sock\"");
    let context = reader.context;
    Written {
        enabled: reader.boolean("enabled").map(|enabled| enabled.value),
        socket: socket.map(|socket| urls::absolute(context, socket.value)),
        mode: reader.parsed("mode", "\"0660\"", mode).map(|mode| mode.value),
        group: reader.word("group", "\"app\"").map(|group| group.value.to_owned()),
        tcp: tcp(reader),
    }
}

/// Permissions in octal digits. What everybody may use would let everybody have records deleted.
fn mode(text: &str) -> Result<u32, Wrong> {
    let wrong = || Wrong::new(format!("{} is not the mode of a file", quoted(text)));
    let mode = u32::from_str_radix(text, 8).map_err(|_| wrong())?;
    match mode {
        0o600..=0o777 if mode.is_multiple_of(0o10) => Ok(mode),
        0..=0o777 => Err(Wrong::new(format!("mode {} fits no socket of events", quoted(text)))
            .help("write \"0600\" or \"0660\": its owner must be able to use it, and not everybody on the machine; name a `group` instead")),
        _ => Err(wrong()),
    }
}

fn tcp(reader: &mut Reader<'_>) -> Option<TcpConfig> {
    const EXAMPLE: &str = "\"127.0.0.1:7117\"";
    let listen = reader.parsed("listen", EXAMPLE, |text| {
        let wrong = || Wrong::new(format!("{} is not an address and a port", quoted(text)));
        text.parse::<SocketAddr>().map_err(|_| wrong())
    });
    if let Some(entry) = reader.entry("token")
        && !matches!(entry.kind, Kind::Table(_))
    {
        // Somebody may have typed it in.
        reader.context.hide_value(entry);
    }
    let token = urls::secret(reader, "token");
    if let Some(entry) = reader.entry("token")
        && !reader.has("listen")
    {
        let message = "`token` of `[api]` guards no port: the socket goes by its permissions";
        let help = "add `listen = \"127.0.0.1:7117\"`, or leave the token out";
        reader.report(Problem::new(entry.key, message).help(help).absence());
    }
    let listen = listen?;
    if !reader.has("token") {
        let message = "`listen` of `[api]` needs a `token`: anyone who reaches the port could have records deleted";
        let help =
            "add `token = { credential = \"api-token\" }`, a secret of 16 characters or more";
        reader.report(Problem::new(listen.place, message).help(help).absence());
    }
    Some(TcpConfig { listen: listen.value, token: token? })
}
