//! Signed requests: AWS Signature Version 4, by reqsign, which also knows where credentials are found.

use bytes::Bytes;
use http::request::Parts;
use reqsign_aws_v4::{
    Credential, DefaultCredentialProvider, RequestSigner, StaticCredentialProvider,
};
use reqsign_core::{Context, Env as _, HttpSend, OsEnv, Signer};
use reqsign_file_read_tokio::TokioFileRead;
use reqwest::Client;
use secrecy::ExposeSecret;

use super::super::Credentials;

/// Signs what is sent.
pub(super) struct Signed(Signer<Credential>);

impl Signed {
    /// With these credentials, or with those that the environment or the machine has: variables, profiles,
    /// a token of the cluster, the machine's role.
    pub(super) fn new(client: Client, credentials: Option<&Credentials>, region: &str) -> Signed {
        let context = Context::new()
            .with_file_read(TokioFileRead)
            .with_http_send(Through(client))
            .with_env(OsEnv);
        let signer = RequestSigner::new("s3", region);
        Signed(match credentials {
            Some(credentials) => {
                let secret = credentials.secret.expose_secret();
                Signer::new(context, StaticCredentialProvider::new(&credentials.id, secret), signer)
            }
            None => Signer::new(context, DefaultCredentialProvider::new(), signer),
        })
    }

    /// Signs a request; false where there are no credentials. The reason is not told on, because it may
    /// quote them.
    pub(super) async fn sign(&self, head: &mut Parts) -> bool {
        self.0.sign(head, None).await.is_ok()
    }
}

/// The region that the environment names.
pub(super) fn region_of_environment() -> Option<String> {
    let named = |name| OsEnv.var(name).filter(|region| !region.is_empty());
    named("AWS_REGION").or_else(|| named("AWS_DEFAULT_REGION"))
}

/// How credentials are fetched where a service of the machine or of the cloud gives them out.
#[derive(Debug)]
struct Through(Client);

impl HttpSend for Through {
    async fn http_send(
        &self,
        request: http::Request<Bytes>,
    ) -> reqsign_core::Result<http::Response<Bytes>> {
        let failed = |_| reqsign_core::Error::unexpected("the request for credentials failed");
        let request = reqwest::Request::try_from(request).map_err(failed)?;
        let mut answer = self.0.execute(request).await.map_err(failed)?;
        let mut response = http::Response::builder().status(answer.status());
        if let Some(headers) = response.headers_mut() {
            std::mem::swap(headers, answer.headers_mut());
        }
        let body = answer.bytes().await.map_err(failed)?;
        let broken = |_| reqsign_core::Error::unexpected("the answer with credentials is broken");
        response.body(body).map_err(broken)
    }
}
