//! A small issuer of access tokens: metadata, keys and tokens as OpenID Connect providers have them, over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::cluster::serve;

pub const AUDIENCE: &str = "https://mcp.example/mcp";

pub struct Issuer {
    pub url: String,
    pub state: Arc<State>,
}

#[derive(Default)]
pub struct State {
    keys: Mutex<Vec<SigningKey>>,
    /// What is served instead of the metadata.
    pub metadata: Mutex<Option<Value>>,
    pub key_requests: AtomicUsize,
    pub is_down: Mutex<bool>,
}

struct SigningKey {
    id: String,
    pair: EcdsaKeyPair,
}

impl Issuer {
    pub async fn new() -> Self {
        let state = Arc::new(State::default());
        let (for_metadata, for_keys) = (Arc::clone(&state), Arc::clone(&state));
        let url = Arc::new(Mutex::new(String::new()));
        let named = Arc::clone(&url);
        let metadata = get(async move || {
            let url = named.lock().clone();
            let usual = json!({"issuer": url, "jwks_uri": format!("{url}/keys")});
            for_metadata.metadata.lock().clone().unwrap_or(usual).to_string()
        });
        let keys = get(async move || {
            for_keys.key_requests.fetch_add(1, Ordering::Relaxed);
            match *for_keys.is_down.lock() {
                true => Err(axum::http::StatusCode::SERVICE_UNAVAILABLE),
                false => Ok(for_keys.key_set().to_string()),
            }
        });
        let router = Router::new().route("/.well-known/openid-configuration", metadata).route("/keys", keys);
        let address: SocketAddr = serve(router).await;
        *url.lock() = format!("http://{address}");
        let issuer = Self { url: format!("http://{address}"), state };
        issuer.rotate("first");
        issuer
    }

    /// Signs with a new key from now on; the one before stays in the set.
    pub fn rotate(&self, id: &str) {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
        self.state.keys.lock().push(SigningKey { id: id.to_owned(), pair });
    }

    /// Forgets all keys but the newest.
    pub fn revoke_old_keys(&self) {
        let mut keys = self.state.keys.lock();
        let old = keys.len() - 1;
        keys.drain(..old);
    }

    /// Claims that let somebody in.
    pub fn claims(&self) -> Value {
        json!({"iss": self.url, "aud": AUDIENCE, "sub": "ana", "client_id": "agent-7", "scope": "openid observe",
            "exp": now_s() + 300, "iat": now_s()})
    }

    /// A token signed with the newest key.
    pub fn sign(&self, claims: &Value) -> String {
        let id = self.state.keys.lock().last().unwrap().id.clone();
        self.sign_with(&json!({"alg": "ES256", "typ": "at+jwt", "kid": id}), claims)
    }

    pub fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encoded(header), encoded(claims));
        let keys = self.state.keys.lock();
        let signature = keys.last().unwrap().pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

impl State {
    pub fn key_set(&self) -> Value {
        let jwk = |key: &SigningKey| {
            let point = key.pair.public_key().as_ref();
            let [x, y] = [&point[1..33], &point[33..]].map(|part| URL_SAFE_NO_PAD.encode(part));
            json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": key.id, "x": x, "y": y})
        };
        let mut keys: Vec<Value> = self.keys.lock().iter().map(jwk).collect();
        // Kinds that are of no use here must not spoil the others.
        keys.push(json!({"kty": "EC", "crv": "secp256k1", "kid": "odd", "x": "AA", "y": "AA"}));
        keys.push(json!({"kty": "oct", "kid": "secret", "alg": "HS256", "k": "c2VjcmV0"}));
        keys.push(json!({"kty": "future"}));
        json!({"keys": keys})
    }
}

pub fn encoded(part: &Value) -> String {
    URL_SAFE_NO_PAD.encode(part.to_string())
}

pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
