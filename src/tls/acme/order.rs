//! One order, from an account to a certificate (RFC 8555 §7).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::config::AcmeChallenge;
use crate::tls::Certificate;
use crate::tls::acme::challenge::{Pending, Tokens};
use crate::tls::acme::failure::{Cost, Failure, Party};
use crate::tls::acme::wire::{LastAnswer, Wire, WireError};
use crate::tls::issued::Issued;
use crate::types::{Domain, Email, Secret, Url};

/// How long an authority may take to ask for all names, and then to issue.
const WAIT: Duration = Duration::from_secs(120);

/// An account that is kept.
#[derive(Serialize, Deserialize)]
struct KeptAccount {
    /// Whom the authority may write to.
    email: Option<String>,
    credentials: AccountCredentials,
}

/// The way to an authority.
pub(super) struct Session {
    account: Account,
    last: LastAnswer,
}

/// What is asked for.
pub(super) struct Asked<'a> {
    pub(super) domains: &'a [Domain],
    pub(super) challenge: AcmeChallenge,
    pub(super) tokens: &'a Arc<Tokens>,
    /// Where authorities may come with a handshake.
    pub(super) listeners: Vec<Arc<Issued>>,
}

impl Session {
    /// Goes on with an account that is kept, or makes one. The account, if it is to be kept anew.
    pub(super) async fn begin(
        directory: &Url,
        ca: Option<&[CertificateDer<'static>]>,
        email: Option<&Email>,
        kept: Option<&Secret>,
    ) -> Result<(Self, Option<Secret>), Failure> {
        let last = LastAnswer::default();
        let wire = || {
            let ca = ca.map(<[CertificateDer<'_>]>::to_vec);
            let last = last.clone();
            async move {
                // The system's certificates are files.
                let made = tokio::task::spawn_blocking(move || Wire::new(ca.as_deref(), last)).await;
                made.unwrap_or_else(|error| Err(WireError::Roots(error.to_string())))
                    .map_err(|error| Failure::of(&Error::Other(Box::new(error)), None))
            }
        };
        let failed = |error: Error| Failure::of(&error, last.refusal());
        let contact = email.map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let email = email.map(|email| email.as_str().to_owned());
        let known = kept.map(|kept| serde_json::from_str::<KeptAccount>(kept.expose()));
        match known {
            Some(Ok(known)) => {
                let credentials = known.credentials;
                let again = if known.email == email { None } else { Some(kept_credentials(&credentials)?) };
                let builder = Account::builder_with_http(Box::new(wire().await?));
                let account = builder.from_credentials(credentials).await.map_err(failed)?;
                let Some(credentials) = again else { return Ok((Self { account, last }, None)) };
                account.update_contacts(&contact).await.map_err(failed)?;
                let kept = secret(&KeptAccount { email, credentials })?;
                Ok((Self { account, last }, Some(kept)))
            }
            Some(Err(_)) => Err(Failure::new(DAMAGED, Party::Operator, Cost::None, "the account that is kept can't be read")),
            None => {
                let builder = Account::builder_with_http(Box::new(wire().await?));
                let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
                let (account, credentials) = builder.create(&new, directory.to_string(), None).await.map_err(failed)?;
                let kept = secret(&KeptAccount { email, credentials })?;
                Ok((Self { account, last }, Some(kept)))
            }
        }
    }

    /// Orders a certificate with a new key. It comes with both as PEM, the key first.
    pub(super) async fn order(&self, asked: Asked<'_>) -> Result<(Certificate, Secret), Failure> {
        let failed = |error: Error| Failure::of(&error, self.last.refusal());
        let identifiers: Vec<Identifier> =
            asked.domains.iter().map(|domain| Identifier::Dns(domain.as_str().to_owned())).collect();
        let mut order = self.account.new_order(&NewOrder::new(&identifiers)).await.map_err(failed)?;
        // Answered until the authority has made up its mind about all of them.
        let pending = self.prove(&mut order, &asked).await?;
        let retries = RetryPolicy::new().initial_delay(Duration::from_millis(250)).backoff(1.5).timeout(WAIT);
        let status = match order.state().status {
            status @ (OrderStatus::Ready | OrderStatus::Processing | OrderStatus::Valid | OrderStatus::Invalid) => Ok(status),
            OrderStatus::Pending => order.poll_ready(&retries).await,
        };
        match status {
            Ok(OrderStatus::Ready) => {}
            Ok(OrderStatus::Invalid) | Err(Error::Api(_)) => {
                let told = status.err().map(failed);
                return Err(self.refused(&mut order).await.or(told).unwrap_or_else(|| Failure::of_challenge("the order", None)));
            }
            // Nobody but us has the key that it would be for.
            Ok(_) => {
                return Err(Failure::new(
                    "bad_answer",
                    Party::Authority,
                    Cost::Order,
                    "it fills an order that was not finalized",
                ));
            }
            Err(error) => return Err(failed(error)),
        }
        drop(pending);
        let key = KeyPair::generate()?;
        let names: Vec<String> = asked.domains.iter().map(|domain| domain.as_str().to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key)?;
        order.finalize_csr(request.der()).await.map_err(failed)?;
        let chain = order.poll_certificate(&retries).await.map_err(failed)?;
        let key: Secret = key.serialize_pem().parse().map_err(|_| Failure::internal("the key is empty"))?;
        let certificate = accepted(&chain, &key, asked.domains, SystemTime::now())?;
        let pem = format!("{}{chain}", key.expose()).parse().map_err(|_| Failure::internal("the chain is empty"))?;
        Ok((certificate, pem))
    }

    /// Has an answer ready for each name, and says so.
    async fn prove(&self, order: &mut Order, asked: &Asked<'_>) -> Result<Vec<Pending>, Failure> {
        let failed = |error: Error| Failure::of(&error, self.last.refusal());
        let mut pending = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(failed)?;
            match authorization.status {
                AuthorizationStatus::Pending => {}
                // It remembers from an order before this one.
                AuthorizationStatus::Valid => continue,
                status => {
                    let name = authorization.identifier().to_string();
                    let detail = format!("{name}: the authorization is {status:?}").to_lowercase();
                    return Err(Failure::new("unauthorized", Party::Authority, Cost::Order, detail));
                }
            }
            let name = authorization.identifier().to_string();
            let (kind, word) = match asked.challenge {
                AcmeChallenge::Http01 => (ChallengeType::Http01, "http_01"),
                AcmeChallenge::TlsAlpn01 => (ChallengeType::TlsAlpn01, "tls_alpn_01"),
            };
            let Some(mut challenge) = authorization.challenge(kind) else {
                let detail = format!("{name}: the authority does not offer the challenge {word}");
                return Err(Failure::new("no_challenge", Party::Operator, Cost::Order, detail));
            };
            let answer = challenge.key_authorization();
            pending.push(match asked.challenge {
                AcmeChallenge::Http01 => Pending::http(asked.tokens, &challenge.token, &answer),
                AcmeChallenge::TlsAlpn01 => Pending::tls(asked.listeners.clone(), &name, &answer)?,
            });
            challenge.set_ready().await.map_err(failed)?;
        }
        Ok(pending)
    }

    /// Which name an order was refused for, and why.
    async fn refused(&self, order: &mut Order) -> Option<Failure> {
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            if authorization.refresh().await.is_err() || authorization.status != AuthorizationStatus::Invalid {
                continue;
            }
            let name = authorization.identifier().to_string();
            let problem = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref());
            return Some(Failure::of_challenge(&name, problem));
        }
        None
    }
}

/// The account that is kept can't be understood.
pub(super) const DAMAGED: &str = "account_damaged";

/// The library takes them and does not give them back.
fn kept_credentials(credentials: &AccountCredentials) -> Result<AccountCredentials, Failure> {
    let text = serde_json::to_value(credentials).map_err(|error| Failure::internal(error.to_string()))?;
    serde_json::from_value(text).map_err(|error| Failure::internal(error.to_string()))
}

fn secret(account: &KeptAccount) -> Result<Secret, Failure> {
    let text = serde_json::to_string(account).map_err(|error| Failure::internal(error.to_string()))?;
    text.parse().map_err(|_| Failure::internal("the account is empty"))
}

/// A chain that can be served, if it is what was asked for.
fn accepted(chain: &str, key: &Secret, domains: &[Domain], now: SystemTime) -> Result<Certificate, Failure> {
    let bad = |detail: String| Failure::new("bad_certificate", Party::Authority, Cost::Order, detail);
    let certificate =
        Certificate::from_pem(chain.as_bytes(), key.expose().as_bytes(), None).map_err(|(_, error)| bad(error.to_string()))?;
    if let Some(missing) = domains.iter().find(|domain| !certificate.names().iter().any(|name| **name == *domain.as_str())) {
        return Err(bad(format!("the certificate is not for {missing}")));
    }
    if certificate.not_after() <= now {
        return Err(bad("the certificate has expired already: is this machine's clock right?".to_owned()));
    }
    Ok(certificate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::certificate::tests::pair;

    #[test]
    fn only_what_was_asked_for_is_taken() {
        let (chain, key) = pair(&["a.example", "b.example"]);
        let domains = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<Domain>>();
        let take = |chain: &str, names: &[&str], now| accepted(chain, &key.parse().unwrap(), &domains(names), now);
        let now = SystemTime::now();
        assert!(take(&chain, &["b.example", "a.example"], now).is_ok());
        let reason = |result: Result<Certificate, Failure>| result.unwrap_err().detail;
        assert!(reason(take(&chain, &["a.example", "c.example"], now)).contains("not for c.example"));
        let (others, _) = pair(&["a.example"]);
        assert!(reason(take(&others, &["a.example"], now)).contains("does not belong"));
        assert!(reason(take("", &["a.example"], now)).contains("no certificate"));
        let late = now + Duration::from_secs(10_000 * 365 * 24 * 3600);
        assert!(reason(take(&chain, &["a.example"], late)).contains("clock"));
    }
}
