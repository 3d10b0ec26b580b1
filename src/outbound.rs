//! The way out over HTTP: to addresses of others, never to our own network unless that is asked for.
//!
//! A URL in a configuration must not become a way into the network that expunged stands in: no
//! private, local or otherwise special address is connected to, whether it is written in the URL or
//! what a name stands for. Names are resolved once, and what was checked is what is connected to.
//! Redirects are not followed, proxies not used, times bounded, and of no answer is more read than a
//! little; what is compressed stays so.

use std::error::Error;
use std::fmt;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Certificate, Client, ClientBuilder, Method, StatusCode, Url, redirect};
use secrecy::{ExposeSecret, SecretString};

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// More of an answer's body is not read, in bytes.
const MOST: usize = 64 * 1024;
/// A file of authorities is no longer, in bytes.
const LONGEST_CA: u64 = 4 * 1024 * 1024;
/// So many connections to one server stay open for the next message.
const KEPT_OPEN: usize = 256;

/// Where requests may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// To public addresses, by HTTPS.
    Public,
    /// Anywhere, by HTTP too: the operator vouches for it.
    Internal,
}

/// Why a request was not made, or not answered well. Holds neither the URL's path nor any secret.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// Not a URL that can be used.
    #[error("this is not a URL for HTTP")]
    Url,
    /// HTTP without TLS.
    #[error(
        "the URL begins with `http:`, which anyone on the way can read and change: use `https:`, or write `internal = true`"
    )]
    Plain,
    /// An address that is not public.
    #[error("{0} is not a public address: if it is meant to be reached, write `internal = true`")]
    NotPublic(IpAddr),
    /// The secret cannot stand in a header.
    #[error("the value of the Authorization header has characters that no header can have")]
    Header,
    /// The client could not be made.
    #[error("the HTTP client cannot be set up")]
    Setup,
    /// The authority's certificate cannot be used.
    #[error("the authority's certificate in {} cannot be used: {reason}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Nothing answered.
    #[error("{host} {trouble}")]
    Failed {
        /// Who did not.
        host: String,
        /// Why.
        trouble: Trouble,
    },
    /// It answered with something else than success.
    #[error("{host} answered {status}")]
    Refused {
        /// Who answered.
        host: String,
        /// What.
        status: StatusCode,
    },
}

/// What keeps a server from answering.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// Nobody knows the name.
    Unknown,
    /// The name stands for no public address.
    NotPublic,
    /// Nothing can be connected to.
    Unreachable,
    /// Its certificate is not trusted, for this reason.
    Certificate(String),
    /// It does not speak TLS, or no TLS that we do.
    Tls,
    /// It was too slow.
    Slow,
    /// It broke the connection off, or speaks no HTTP.
    Broken,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Trouble::Unknown => "is a name that DNS does not know",
            Trouble::NotPublic => {
                "has no public address: if it is meant to be reached, write `internal = true`"
            }
            Trouble::Unreachable => "cannot be connected to",
            Trouble::Certificate(reason) => {
                return write!(f, "shows a certificate that is not trusted: {reason}");
            }
            Trouble::Tls => "does not speak TLS as it should",
            Trouble::Slow => "did not answer in time",
            Trouble::Broken => "broke the connection off",
        })
    }
}

/// A text, posted.
///
/// # Errors
/// When the address may not be reached, does not answer in time, or answers with anything but a success.
pub async fn post(
    url: &str,
    reach: Reach,
    authorization: Option<&SecretString>,
    content_type: &'static str,
    body: String,
) -> Result<(), OutboundError> {
    let url = check(url, reach)?;
    let host = url.host_str().unwrap_or_default().to_owned();
    let mut request =
        client(reach)?.post(url).header(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(secret) = authorization {
        let value = HeaderValue::from_str(secret.expose_secret());
        let mut value = value.map_err(|_| OutboundError::Header)?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    let answer = request.body(body).send().await;
    // The error's own text would show the whole URL.
    let failed = |error| OutboundError::Failed { host: host.clone(), trouble: trouble(&error) };
    let status = answer.map_err(failed)?.status();
    if status.is_success() { Ok(()) } else { Err(OutboundError::Refused { host, status }) }
}

/// What is behind an error of the client. The error's own text would show the whole URL.
fn trouble(error: &reqwest::Error) -> Trouble {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut of_tls = None;
    while let Some(error) = cause {
        if error.is::<NoPublicAddress>() {
            return Trouble::NotPublic;
        }
        if error.is::<UnknownName>() {
            return Trouble::Unknown;
        }
        of_tls = of_tls.or(tls_error(error));
        cause = error.source();
    }
    match of_tls {
        Some(rustls::Error::InvalidCertificate(reason)) => {
            Trouble::Certificate(distrust(reason).to_owned())
        }
        Some(_) => Trouble::Tls,
        None if error.is_timeout() => Trouble::Slow,
        None if error.is_connect() => Trouble::Unreachable,
        None => Trouble::Broken,
    }
}

/// An error of TLS, also within one of the system, which passes over what it wraps where it is asked for its source.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    match wrapped {
        Some(wrapped) => tls_error(wrapped),
        None => error.downcast_ref::<rustls::Error>(),
    }
}

/// Why a certificate is not trusted, without what stands in it.
fn distrust(reason: &rustls::CertificateError) -> &'static str {
    use rustls::CertificateError as Reason;
    match reason {
        Reason::Expired | Reason::ExpiredContext { .. } => "it has expired",
        Reason::NotValidYet | Reason::NotValidYetContext { .. } => "it is not valid yet",
        Reason::Revoked => "it was revoked",
        Reason::NotValidForName | Reason::NotValidForNameContext { .. } => "it is for another name",
        Reason::UnknownIssuer => {
            "nobody whom this machine trusts has signed it; name the authority's file with `ca`, where it is one's own"
        }
        Reason::BadSignature => "its signature is wrong",
        Reason::InvalidPurpose | Reason::InvalidPurposeContext { .. } => "it is not for servers",
        _ => "it cannot be used for a server",
    }
}

/// A way to one server, which keeps its connections open from one request to the next.
#[derive(Clone, Debug)]
pub struct Way {
    client: Client,
    reach: Reach,
}

/// What a server has answered.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Who answered.
    pub host: String,
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; none where it was longer than 64 KiB, too slow or cut off.
    pub body: Option<Vec<u8>>,
}

impl Way {
    /// Prepares a way; nothing is connected to. Where an authority is named, no other one is trusted.
    ///
    /// # Errors
    /// When the authority's file cannot be read.
    pub fn new(reach: Reach, ca: Option<&Path>, within: Duration) -> Result<Way, OutboundError> {
        let mut builder = builder(reach, within)
            .pool_max_idle_per_host(KEPT_OPEN)
            .pool_idle_timeout(Duration::from_secs(55));
        if let Some(path) = ca {
            builder = builder.tls_certs_only(authorities(path)?);
        }
        Ok(Way { client: builder.build().map_err(|_| OutboundError::Setup)?, reach })
    }

    /// Sends a request and reads the answer, within the time that the way was given.
    ///
    /// # Errors
    /// When the address may not be reached or does not answer in time. Any status is an answer.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Option<Vec<u8>>,
    ) -> Result<Reply, OutboundError> {
        let url = check(url, self.reach)?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let mut request = self.client.request(method, url).headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        match request.send().await {
            Ok(answer) => {
                let (status, headers) = (answer.status(), answer.headers().clone());
                Ok(Reply { host, status, headers, body: read(answer).await })
            }
            Err(error) => Err(OutboundError::Failed { host, trouble: trouble(&error) }),
        }
    }
}

/// The body, if all of it comes and is short.
async fn read(mut answer: reqwest::Response) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.ok()? {
        if body.len() + chunk.len() > MOST {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    Some(body)
}

fn authorities(path: &Path) -> Result<Vec<Certificate>, OutboundError> {
    let unusable = |reason: String| OutboundError::Authority { path: path.to_owned(), reason };
    let mut pem = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| unusable(error.to_string()))?;
    let read = file.take(LONGEST_CA).read_to_end(&mut pem);
    read.map_err(|error| unusable(error.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&pem);
    let certificates = certificates.map_err(|_| unusable("it is not PEM".to_owned()))?;
    if certificates.is_empty() {
        return Err(unusable("there is no certificate in it".to_owned()));
    }
    Ok(certificates)
}

/// Reads a URL and refuses what is plain to see: the wrong scheme, an address that is not public. A
/// name is looked at when it is resolved.
fn check(url: &str, reach: Reach) -> Result<Url, OutboundError> {
    let url = Url::parse(url).map_err(|_| OutboundError::Url)?;
    let host = url.host_str().ok_or(OutboundError::Url)?;
    match (url.scheme(), reach) {
        ("https", _) | ("http", Reach::Internal) => {}
        ("http", Reach::Public) => return Err(OutboundError::Plain),
        _ => return Err(OutboundError::Url),
    }
    // The resolver is not asked about these.
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match (address, reach) {
        (Ok(address), Reach::Public) if !is_public(address) => {
            Err(OutboundError::NotPublic(address))
        }
        _ => Ok(url),
    }
}

fn client(reach: Reach) -> Result<Client, OutboundError> {
    let builder = builder(reach, ANSWER_WITHIN).pool_max_idle_per_host(0);
    builder.build().map_err(|_| OutboundError::Setup)
}

fn builder(reach: Reach, within: Duration) -> ClientBuilder {
    // Ours is the one provider of cryptography; that it was installed before is no failure.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_WITHIN.min(within))
        .timeout(within)
        .user_agent(concat!("expunged/", env!("CARGO_PKG_VERSION")))
        .dns_resolver(Resolver(reach));
    match reach {
        Reach::Public => builder.https_only(true),
        Reach::Internal => builder,
    }
}

/// A client that reaches one local server, by its Unix socket.
///
/// # Errors
/// When it cannot be set up.
pub fn over_socket(socket: &Path) -> Result<Client, OutboundError> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder().unix_socket(socket).no_proxy();
    let builder = builder.redirect(redirect::Policy::none()).timeout(ANSWER_WITHIN);
    builder.build().map_err(|_| OutboundError::Setup)
}

/// Resolves names as the system does, and leaves out addresses that are not public unless they may be.
struct Resolver(Reach);

#[derive(Debug, thiserror::Error)]
#[error("the name has no public address")]
struct NoPublicAddress;

#[derive(Debug, thiserror::Error)]
#[error("nobody knows the name")]
struct UnknownName;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await;
            let found: Vec<SocketAddr> = found.map_err(|_| UnknownName)?.collect();
            if found.is_empty() {
                return Err(UnknownName.into());
            }
            let may = |found: &SocketAddr| reach == Reach::Internal || is_public(found.ip());
            let reachable: Vec<SocketAddr> = found.into_iter().filter(may).collect();
            if reachable.is_empty() {
                return Err(NoPublicAddress.into());
            }
            Ok(Box::new(reachable.into_iter()) as Addrs)
        })
    }
}

/// Whether an address belongs to the internet at large (the special ones are those of RFC 6890).
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let special = matches!(
        address.octets(),
        // This network, loopback, private, carriers' own, link-local, multicast and reserved.
        [0 | 10 | 127 | 224.., ..] | [100, 64..=127, ..] | [169, 254, ..]
            | [172, 16..=31, ..] | [192, 168, ..]
            // Protocol assignments, 6to4 relays, benchmarks, examples.
            | [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 18 | 19, ..]
            | [198, 51, 100, _] | [203, 0, 113, _]
    );
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(inner) = address.to_ipv4_mapped() {
        return is_public_v4(inner);
    }
    match address.segments() {
        // An address of the old internet behind a translator (NAT64) or a tunnel (6to4).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
            is_public_v4(Ipv4Addr::new(a, b, c, d))
        }
        // Protocol assignments (Teredo among them) and examples.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // All that has been given to the internet at large.
        [first, ..] => (0x2000..=0x3fff).contains(&first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_internet_at_large_are_public() {
        for public in
            ["1.1.1.1", "93.184.216.34", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1"]
        {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for special in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "203.0.113.9",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::1",
            "2001:db8::1",
            "2001::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!is_public(special.parse().unwrap()), "{special}");
        }
    }

    #[test]
    fn urls_that_lead_inside_are_refused_before_anything_is_sent() {
        assert!(check("https://example.org/x", Reach::Public).is_ok());
        for url in ["http://example.org", "ftp://example.org", "example.org", "file:///etc/passwd"]
        {
            assert!(check(url, Reach::Public).is_err(), "{url}");
        }
        // Other ways of writing 127.0.0.1, which URLs know.
        for url in ["127.0.0.1", "2130706433", "0x7f.1", "127.1", "[::1]", "[::ffff:7f00:1]"] {
            let checked = check(&format!("https://{url}/"), Reach::Public);
            assert!(matches!(checked, Err(OutboundError::NotPublic(_))), "{url}: {checked:?}");
            assert!(check(&format!("http://{url}/"), Reach::Internal).is_ok(), "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_refused() {
        let sent =
            post("https://localhost:9/", Reach::Public, None, "text/plain", String::new()).await;
        let error = sent.unwrap_err().to_string();
        assert!(error.contains("has no public address"), "{error}");
    }
}
