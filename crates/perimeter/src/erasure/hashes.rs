//! Identifiers of data subjects as keyed hashes: what a register of requests keeps of them, and what rows are held beside.
//!
//! Invariant: the hash has the label of the column in it, and is another one than that of masks, so that no pseudonym that an
//! analyst has seen names a request.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, AsArray as _, BooleanArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::Column;
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use ring::hmac;

use crate::governed::masks::hmac_key;
use crate::shape::{Erased, MaskKey};

/// The beginning of an HMAC-SHA-256.
pub type SubjectHash = [u8; HASH_BYTES];

const HASH_BYTES: usize = 16;

/// Hashes identifiers that stand in columns of one label.
#[derive(Clone)]
pub struct SubjectHasher(hmac::Key);

impl SubjectHasher {
    pub fn new(key: &MaskKey, label: &str) -> SubjectHasher {
        SubjectHasher(hmac_key(key, format!("erasure\0{label}").as_bytes()))
    }

    pub fn hash(&self, text: &str) -> SubjectHash {
        let mut hash = SubjectHash::default();
        hash.copy_from_slice(&hmac::sign(&self.0, text.as_bytes()).as_ref()[..HASH_BYTES]);
        hash
    }

    /// Of each value that is not NULL, whatever its type: numbers and texts that read the same are the same.
    pub fn each(&self, values: &dyn Array, mut each: impl FnMut(usize, SubjectHash)) -> Result<()> {
        let as_text;
        let values = match values.data_type() {
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
                // What is no text is NULL, and names nobody.
                as_text = cast(values, &DataType::Utf8)?;
                as_text.as_ref()
            }
            _ => values,
        };
        if let Some(texts) = values.as_string_view_opt() {
            (0..texts.len())
                .filter(|row| texts.is_valid(*row))
                .for_each(|row| each(row, self.hash(texts.value(row))));
            return Ok(());
        }
        let options = FormatOptions::new();
        let formatter = ArrayFormatter::try_new(values, &options)?;
        for row in (0..values.len()).filter(|row| values.is_valid(*row)) {
            each(row, self.hash(&formatter.value(row).try_to_string()?));
        }
        Ok(())
    }
}

/// Says whether a key is still the one that hashes were made with.
pub fn key_check(key: &MaskKey) -> String {
    kafscale_audit::hex(&SubjectHasher::new(key, "").hash("key")[..8])
}

/// Whether values of such a type are compared.
pub fn is_compared(data_type: &DataType) -> bool {
    !data_type.is_nested()
}

/// The condition that a row is of none of these subjects.
pub fn kept(erased: &Erased) -> Expr {
    let hasher = SubjectHasher::new(&erased.key, &erased.label);
    let kept = Kept {
        hasher,
        label: erased.label.clone(),
        hashes: Arc::clone(&erased.hashes),
        signature: Signature::any(1, Volatility::Volatile),
    };
    let column = Expr::Column(Column::new_unqualified(&erased.column));
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::from(kept)), vec![column]))
}

/// It is in no catalog: a caller who could call it could ask who is in the list. It is volatile, so that no source is asked it.
struct Kept {
    hasher: SubjectHasher,
    label: String,
    hashes: Arc<HashSet<SubjectHash>>,
    signature: Signature,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("label", &self.label).finish_non_exhaustive()
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Kept) -> bool {
        self.label == other.label && self.hashes == other.hashes
    }
}

impl Eq for Kept {}

impl Hash for Kept {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.label.hash(state);
        self.hashes.len().hash(state);
    }
}

impl ScalarUDFImpl for Kept {
    fn name(&self) -> &'static str {
        "__kafscale_kept"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let mut kept = vec![true; args.number_rows];
        if let [values] = arrays.as_slice() {
            kept = vec![true; values.len()];
            self.hasher.each(values.as_ref(), |row, hash| kept[row] = !self.hashes.contains(&hash))?;
        }
        Ok(ColumnarValue::Array(Arc::new(BooleanArray::from(kept))))
    }
}
