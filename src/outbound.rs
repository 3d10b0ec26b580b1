//! The way out over HTTP: to addresses of others, never to our own network unless that is asked for.
//!
//! A URL in a configuration must not become a way into the network that expunged stands in: no
//! private, local or otherwise special address is connected to, whether it is written in the URL or
//! what a name stands for. Names are resolved once, and what was checked is what is connected to.
//! Redirects are not followed, proxies not used, times bounded, and no answer is read beyond its status.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, StatusCode, Url, redirect};
use secrecy::{ExposeSecret, SecretString};

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

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
    /// Nothing answered.
    #[error("{0} {1}")]
    Failed(String, &'static str),
    /// It answered with something else than success.
    #[error("{host} answered {status}")]
    Refused {
        /// Who answered.
        host: String,
        /// What.
        status: StatusCode,
    },
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
    let status =
        answer.map_err(|error| OutboundError::Failed(host.clone(), describe(&error)))?.status();
    if status.is_success() { Ok(()) } else { Err(OutboundError::Refused { host, status }) }
}

fn describe(error: &reqwest::Error) -> &'static str {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.is::<NoPublicAddress>() {
            return "has no public address: if it is meant to be reached, write `internal = true`";
        }
        cause = error.source();
    }
    if error.is_timeout() {
        "did not answer in time"
    } else if error.is_connect() {
        "cannot be connected to"
    } else {
        "broke the connection off"
    }
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
    // Ours is the one provider of cryptography; that it was installed before is no failure.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_WITHIN)
        .timeout(ANSWER_WITHIN)
        .pool_max_idle_per_host(0)
        .user_agent(concat!("expunged/", env!("CARGO_PKG_VERSION")));
    let builder = match reach {
        Reach::Public => builder.https_only(true).dns_resolver(PublicOnly),
        Reach::Internal => builder,
    };
    builder.build().map_err(|_| OutboundError::Setup)
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

/// Resolves names as the system does, and leaves out addresses that are not public.
struct PublicOnly;

#[derive(Debug, thiserror::Error)]
#[error("the name has no public address")]
struct NoPublicAddress;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|found| is_public(found.ip())).collect();
            if public.is_empty() {
                return Err(NoPublicAddress.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
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
