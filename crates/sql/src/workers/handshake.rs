//! Who is at the other end: both sides prove that they know the secret, and neither says it. Then the worker looks
//! whether the other is of the same program and reads the same store.
//!
//! Each side gives a number that nobody has used before, and a keyed hash (HMAC, RFC 2104, with SHA-256) of both
//! numbers with a word for its side, so that nothing that was heard can be said again. What comes afterwards is not
//! protected by this: whoever can change what goes over the network needs TLS against them.

use std::time::Duration;

use ring::hmac;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::frames::{self, FrameError, Kind, SMALL_BYTES, Wire};
use super::wire::Failed;
use crate::error::SqlError;

/// Changes whenever a process of another version would misunderstand this one.
const PROTOCOL: u32 = 1;
const LIMIT: Duration = Duration::from_secs(10);
const WORKER: &str = "worker";
const COORDINATOR: &str = "coordinator";

/// What both sides must have in common.
#[derive(Debug)]
pub struct Identity {
    version: String,
    /// Of the store and its metadata.
    store: String,
    secret: hmac::Key,
}

#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    protocol: u32,
    version: String,
    store: String,
    nonce: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Challenge {
    nonce: String,
    proof: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Proof {
    proof: String,
}

/// Why a connection is not used.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("it has another secret (--worker-secret)")]
    Secret,
    #[error(
        "it speaks version {theirs} of the protocol between servers of SQL, and this one version {PROTOCOL}"
    )]
    Protocol { theirs: u32 },
    #[error("it is of the version {theirs}, and this one of {own}: workers must be of the same version")]
    Version { own: String, theirs: String },
    #[error("it reads another store or cluster: --store, --meta and --cluster-name must name the same")]
    Store,
    #[error("{0}")]
    Told(String),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl Identity {
    pub fn new(store: String, secret: Option<&str>) -> Identity {
        let engine = datafusion::DATAFUSION_VERSION;
        Identity {
            version: format!("{} (DataFusion {engine})", env!("CARGO_PKG_VERSION")),
            store,
            secret: hmac::Key::new(hmac::HMAC_SHA256, secret.unwrap_or_default().as_bytes()),
        }
    }

    fn proof(&self, side: &str, nonces: [&str; 2]) -> String {
        let tag = hmac::sign(&self.secret, format!("{side}:{}:{}", nonces[0], nonces[1]).as_bytes());
        tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn is_proof(&self, side: &str, nonces: [&str; 2], proof: &str) -> bool {
        let own = self.proof(side, nonces);
        // Through a hash of both, so that the time it takes tells nothing.
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"compared");
        hmac::verify(&key, own.as_bytes(), hmac::sign(&key, proof.as_bytes()).as_ref()).is_ok()
    }

    fn check(&self, theirs: &Hello) -> Result<(), Refusal> {
        if theirs.protocol != PROTOCOL {
            return Err(Refusal::Protocol { theirs: theirs.protocol });
        }
        if theirs.version != self.version {
            return Err(Refusal::Version { own: self.version.clone(), theirs: theirs.version.clone() });
        }
        if theirs.store != self.store { Err(Refusal::Store) } else { Ok(()) }
    }

    /// As the one that connects.
    pub async fn greet(&self, wire: &mut dyn Wire) -> Result<(), Refusal> {
        let nonce = Uuid::new_v4().to_string();
        let hello = Hello {
            protocol: PROTOCOL,
            version: self.version.clone(),
            store: self.store.clone(),
            nonce: nonce.clone(),
        };
        frames::write_json(&mut &mut *wire, Kind::Hello, &hello).await?;
        let challenge: Challenge = answer(wire, Kind::Challenge).await?;
        if !self.is_proof(WORKER, [&nonce, &challenge.nonce], &challenge.proof) {
            return Err(Refusal::Secret);
        }
        let proof = self.proof(COORDINATOR, [&nonce, &challenge.nonce]);
        frames::write_json(&mut &mut *wire, Kind::Proof, &Proof { proof }).await?;
        answer::<()>(wire, Kind::Ready).await
    }

    /// As the worker. Whoever does not know the secret learns nothing but that.
    pub async fn admit(&self, wire: &mut dyn Wire) -> Result<(), Refusal> {
        let admitted = self.look(wire).await;
        match &admitted {
            Ok(()) => frames::write_json(&mut &mut *wire, Kind::Ready, &()).await?,
            Err(Refusal::Frame(_)) => {}
            Err(refusal) => {
                let message = refusal.told();
                let failed = Failed { code: "28000".to_owned(), message, hint: None };
                frames::write_json(&mut &mut *wire, Kind::Failed, &failed).await?;
            }
        }
        admitted
    }

    async fn look(&self, wire: &mut dyn Wire) -> Result<(), Refusal> {
        let read = frames::read_within(&mut &mut *wire, SMALL_BYTES, LIMIT).await?;
        let hello: Hello = read.expect(Kind::Hello)?;
        let nonce = Uuid::new_v4().to_string();
        let nonces = [&*hello.nonce, &*nonce];
        let challenge = Challenge { proof: self.proof(WORKER, nonces), nonce: nonce.clone() };
        frames::write_json(&mut &mut *wire, Kind::Challenge, &challenge).await?;
        let read = frames::read_within(&mut &mut *wire, SMALL_BYTES, LIMIT).await?;
        let Proof { proof } = read.expect(Kind::Proof)?;
        if !self.is_proof(COORDINATOR, nonces, &proof) {
            return Err(Refusal::Secret);
        }
        self.check(&hello)
    }
}

/// The one kind of frame that goes on, or what the other side says instead.
async fn answer<T: serde::de::DeserializeOwned>(wire: &mut dyn Wire, kind: Kind) -> Result<T, Refusal> {
    let frame = frames::read_within(&mut &mut *wire, SMALL_BYTES, LIMIT).await?;
    if frame.kind == Kind::Failed {
        return Err(Refusal::Told(frame.json::<Failed>()?.message));
    }
    Ok(frame.expect(kind)?)
}

impl Refusal {
    /// What a worker says of it to the other side.
    fn told(&self) -> String {
        match self {
            Refusal::Protocol { theirs } => format!(
                "it speaks version {PROTOCOL} of the protocol between servers of SQL, and this one version {theirs}"
            ),
            Refusal::Version { own, theirs } => {
                Refusal::Version { own: theirs.clone(), theirs: own.clone() }.to_string()
            }
            Refusal::Secret | Refusal::Store | Refusal::Told(_) | Refusal::Frame(_) => self.to_string(),
        }
    }

    /// Whether the worker is there, and does not want this process.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Refusal::Frame(_))
    }
}

/// The error of a query that cannot go on without a worker.
pub fn lost(worker: &str, why: impl std::fmt::Display) -> SqlError {
    SqlError::Worker { worker: worker.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn meet(own: Identity, theirs: Identity) -> (Result<(), Refusal>, Result<(), Refusal>) {
        let (mut near, mut far) = tokio::io::duplex(1 << 16);
        let worker = async move { own.admit(&mut far).await };
        let (admitted, greeted) = tokio::join!(worker, async move { theirs.greet(&mut near).await });
        (admitted, greeted)
    }

    fn identity(store: &str, secret: Option<&str>, version: &str) -> Identity {
        Identity { version: version.to_owned(), ..Identity::new(store.to_owned(), secret) }
    }

    #[tokio::test]
    async fn only_the_same_program_with_the_same_secret_and_store_is_admitted() {
        let same = || identity("s", Some("a secret"), "1");
        let (admitted, greeted) = meet(same(), same()).await;
        assert!(admitted.is_ok() && greeted.is_ok(), "{admitted:?} {greeted:?}");
        let (admitted, greeted) = meet(identity("s", None, "1"), identity("s", None, "1")).await;
        assert!(admitted.is_ok() && greeted.is_ok(), "{admitted:?} {greeted:?}");
        for (other, why) in [
            (identity("s", Some("another"), "1"), "another secret"),
            (identity("s", None, "1"), "another secret"),
            (identity("t", Some("a secret"), "1"), "another store"),
            (identity("s", Some("a secret"), "2"), "of the version 1, and this one of 2"),
        ] {
            let (admitted, greeted) = meet(same(), other).await;
            assert!(admitted.is_err());
            let told = greeted.unwrap_err().to_string();
            assert!(told.contains(why), "{told}");
        }
    }

    #[tokio::test]
    async fn what_a_worker_has_said_is_no_proof_for_it() {
        let own = identity("s", Some("a secret"), "1");
        let (mut near, mut far) = tokio::io::duplex(1 << 16);
        let replay = async move {
            let hello = Hello {
                protocol: PROTOCOL,
                version: "1".to_owned(),
                store: "s".to_owned(),
                nonce: "n".to_owned(),
            };
            frames::write_json(&mut near, Kind::Hello, &hello).await.unwrap();
            let challenge: Challenge = answer(&mut near, Kind::Challenge).await.unwrap();
            let proof = Proof { proof: challenge.proof };
            frames::write_json(&mut near, Kind::Proof, &proof).await.unwrap();
            answer::<()>(&mut near, Kind::Ready).await
        };
        let (admitted, replayed) = tokio::join!(own.admit(&mut far), replay);
        assert!(matches!(admitted, Err(Refusal::Secret)) && replayed.is_err());
    }
}
