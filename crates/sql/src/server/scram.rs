//! The server's end of SCRAM-SHA-256 (RFC 5802, RFC 7677), without channel binding, from verifiers as PostgreSQL keeps them: a stolen
//! file of verifiers lets nobody log in.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{digest, hmac, pbkdf2};
use std::sync::LazyLock;

const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("it is not 0");
const PREFIX: &str = "SCRAM-SHA-256$";

/// What is known of a user's password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifier {
    salt: Vec<u8>,
    iterations: NonZeroU32,
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
}

impl Verifier {
    /// From a line of the file: a verifier, or a password. `None`: it is neither.
    pub fn of(secret: &str) -> Option<Verifier> {
        match secret.strip_prefix(PREFIX) {
            Some(rest) => Verifier::parse(rest),
            None if secret.is_empty() => None,
            None => {
                let mut salt = vec![0; 16];
                SystemRandom::new().fill(&mut salt).ok()?;
                Some(Verifier::of_password(secret, salt, ITERATIONS))
            }
        }
    }

    fn parse(rest: &str) -> Option<Verifier> {
        let (first, keys) = rest.split_once('$')?;
        let (iterations, salt) = first.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let decode = |text: &str| STANDARD.decode(text).ok();
        let verifier = Verifier {
            salt: decode(salt)?,
            iterations: iterations.parse().ok()?,
            stored_key: decode(stored_key)?,
            server_key: decode(server_key)?,
        };
        (verifier.stored_key.len() == 32 && verifier.server_key.len() == 32).then_some(verifier)
    }

    fn of_password(password: &str, salt: Vec<u8>, iterations: NonZeroU32) -> Verifier {
        let mut salted = [0; 32];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut salted);
        let stored_key = digest::digest(&digest::SHA256, &hmac(&salted, b"Client Key")).as_ref().to_vec();
        Verifier { salt, iterations, stored_key, server_key: hmac(&salted, b"Server Key") }
    }

    /// That of a user that there is not: always the same for the same name, as it is for others.
    pub fn of_nobody(name: &str) -> Verifier {
        static SECRET: LazyLock<[u8; 32]> = LazyLock::new(|| {
            let mut secret = [0; 32];
            let _ = SystemRandom::new().fill(&mut secret);
            secret
        });
        let salt = hmac(&*SECRET, name.as_bytes())[..16].to_vec();
        let mut key = vec![0; 32];
        let _ = SystemRandom::new().fill(&mut key);
        Verifier { salt, iterations: ITERATIONS, server_key: key.clone(), stored_key: key }
    }
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

/// After the client's first message.
#[derive(Debug)]
pub struct Exchange {
    verifier: Verifier,
    client_first_bare: String,
    server_first: String,
    /// What the client's last message must begin with to be about this exchange.
    gs2_header: String,
    nonce: String,
}

/// Why an exchange ends without a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    #[error("a message of SCRAM is malformed")]
    Malformed,
    #[error("channel binding is not supported")]
    ChannelBinding,
    #[error("password authentication failed")]
    Refused,
}

impl Exchange {
    /// Takes the client's first message. Gives ours.
    pub fn begin(message: &[u8], verifier: Verifier) -> Result<(Exchange, String), ScramError> {
        let mut random = [0; 18];
        SystemRandom::new().fill(&mut random).map_err(|_| ScramError::Malformed)?;
        Exchange::begin_with(message, verifier, &STANDARD.encode(random))
    }

    fn begin_with(
        message: &[u8],
        verifier: Verifier,
        own_nonce: &str,
    ) -> Result<(Exchange, String), ScramError> {
        let message = std::str::from_utf8(message).map_err(|_| ScramError::Malformed)?;
        if message.starts_with("p=") {
            return Err(ScramError::ChannelBinding);
        }
        let mut parts = message.splitn(3, ',');
        let (Some(flag @ ("n" | "y")), Some(authzid), Some(bare)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(ScramError::Malformed);
        };
        // Where an extension is mandatory (m=), it must be known.
        let client_nonce = bare
            .split(',')
            .find_map(|part| part.strip_prefix("r="))
            .filter(|nonce| !nonce.is_empty() && !bare.starts_with("m="))
            .ok_or(ScramError::Malformed)?;
        let nonce = format!("{client_nonce}{own_nonce}");
        let server_first =
            format!("r={nonce},s={},i={}", STANDARD.encode(&verifier.salt), verifier.iterations);
        let exchange = Exchange {
            verifier,
            client_first_bare: bare.to_owned(),
            server_first: server_first.clone(),
            gs2_header: format!("{flag},{authzid},"),
            nonce,
        };
        Ok((exchange, server_first))
    }

    /// Takes the client's last message. Gives ours, if the client knows the password.
    pub fn finish(&self, message: &[u8]) -> Result<String, ScramError> {
        let message = std::str::from_utf8(message).map_err(|_| ScramError::Malformed)?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(ScramError::Malformed)?;
        let expected = format!("c={},r={}", STANDARD.encode(&self.gs2_header), self.nonce);
        if without_proof != expected {
            return Err(ScramError::Refused);
        }
        let proof = STANDARD.decode(proof).map_err(|_| ScramError::Malformed)?;
        let signed = format!("{},{},{without_proof}", self.client_first_bare, self.server_first);
        let Verifier { stored_key, server_key, .. } = &self.verifier;
        let signature = hmac(stored_key, signed.as_bytes());
        if proof.len() != signature.len() {
            return Err(ScramError::Refused);
        }
        let client_key: Vec<u8> = proof.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let found = digest::digest(&digest::SHA256, &client_key);
        // Both are hashes: how long comparing takes says nothing of the password.
        if found.as_ref() != stored_key.as_slice() {
            return Err(ScramError::Refused);
        }
        Ok(format!("v={}", STANDARD.encode(hmac(server_key, signed.as_bytes()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3.
    const FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const OWN_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const LAST: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn verifier() -> Verifier {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        Verifier::of_password("pencil", salt, ITERATIONS)
    }

    #[test]
    fn the_exchange_of_the_rfc_succeeds() {
        let (exchange, first) = Exchange::begin_with(FIRST, verifier(), OWN_NONCE).unwrap();
        assert_eq!(
            first,
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let last = exchange.finish(LAST.as_bytes()).unwrap();
        assert_eq!(last, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn whoever_does_not_know_the_password_is_refused() {
        let other = Verifier::of_password("pen", verifier().salt, ITERATIONS);
        for wrong in [other, Verifier::of_nobody("user")] {
            let (exchange, _) = Exchange::begin_with(FIRST, wrong, OWN_NONCE).unwrap();
            assert_eq!(exchange.finish(LAST.as_bytes()), Err(ScramError::Refused));
        }
        let (exchange, _) = Exchange::begin_with(FIRST, verifier(), "another nonce").unwrap();
        assert_eq!(exchange.finish(LAST.as_bytes()), Err(ScramError::Refused));
        let (exchange, _) = Exchange::begin_with(FIRST, verifier(), OWN_NONCE).unwrap();
        for malformed in ["", "c=biws", "c=biws,r=x,p=!"] {
            assert!(exchange.finish(malformed.as_bytes()).is_err(), "{malformed}");
        }
        assert_eq!(
            Exchange::begin(b"p=tls-unique,,n=u,r=x", verifier()).map(drop),
            Err(ScramError::ChannelBinding)
        );
        for malformed in [&b""[..], b"n", b"n,,n=u", b"n,,r=", b"x,,n=u,r=y", b"\xff"] {
            assert_eq!(Exchange::begin(malformed, verifier()).map(drop), Err(ScramError::Malformed));
        }
    }

    #[test]
    fn a_verifier_of_postgresql_is_read() {
        let Verifier { salt, stored_key, server_key, .. } = verifier();
        let [salt, stored_key, server_key] = [salt, stored_key, server_key].map(|b| STANDARD.encode(b));
        let text = format!("SCRAM-SHA-256$4096:{salt}${stored_key}:{server_key}");
        assert_eq!(Verifier::of(&text), Some(verifier()));
        for text in ["", "SCRAM-SHA-256$x", "SCRAM-SHA-256$4096:AA==$AA==:AA=="] {
            assert_eq!(Verifier::of(text), None, "{text}");
        }
        assert!(Verifier::of("pencil").is_some());
        assert_eq!(Verifier::of_nobody("a").salt, Verifier::of_nobody("a").salt);
    }
}
