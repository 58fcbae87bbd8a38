//! What `/healthz` answers, to whoever asks: whether calls are answered, and whether something waits for the operator. Causes are in
//! the log, not here.

use std::fmt;

use axum::http::StatusCode;
use kafscale_audit::AuditLog;

/// What else is to be said. None: nothing.
pub type Remark = Box<dyn Fn() -> Option<&'static str> + Send + Sync>;

#[derive(Default)]
pub struct Health {
    pub(crate) log: Option<AuditLog>,
    pub(crate) remarks: Vec<Remark>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("log", &self.log).finish_non_exhaustive()
    }
}

impl Health {
    /// 503 where calls are refused. Remarks stand behind `ok`.
    pub(crate) fn answer(&self) -> (StatusCode, String) {
        if self.log.as_ref().is_some_and(|log| !log.is_writable()) {
            let why = "the audit log or its anchor cannot be written: calls are refused\n";
            return (StatusCode::SERVICE_UNAVAILABLE, why.to_owned());
        }
        let remarks = self.remarks.iter().filter_map(|remark| remark());
        (StatusCode::OK, remarks.fold("ok\n".to_owned(), |told, remark| told + remark + "\n"))
    }
}
