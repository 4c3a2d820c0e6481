//! The leniency of the REST API: what existing clients send, we read.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Reads a value, and `null` as its zero value.
pub(crate) fn null_is_zero<'de, D, T>(input: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

/// Reads an integer, also spelled `5.0` or `5e0`, and `null` as zero.
pub(crate) fn integer<'de, D, T>(input: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i128> + Default,
{
    let Some(number) = Option::<Number>::deserialize(input)? else {
        return Ok(T::default());
    };
    let whole = match number {
        Number::Unsigned(n) => i128::from(n),
        Number::Signed(n) => i128::from(n),
        Number::Float(n) => whole(n).ok_or_else(|| D::Error::custom(format!("expected an integer, found {n}")))?,
    };
    T::try_from(whole).map_err(|_| D::Error::custom(format!("integer {whole} is out of range")))
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected an integer")]
enum Number {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
}

fn whole(n: f64) -> Option<i128> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53: beyond it a float no longer names one integer
    #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and within 2^53")]
    (n.fract() == 0.0 && n.abs() <= EXACT).then_some(n as i128)
}

/// Whether a value is its type's zero value, and so may be left out.
pub(crate) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Writes a message that the API always shows as an object.
pub(crate) fn always_an_object<S, T>(value: &Option<T>, output: S) -> Result<S::Ok, S::Error>
where
    S: Serializer,
    T: Serialize + Default,
{
    match value {
        Some(value) => value.serialize(output),
        None => T::default().serialize(output),
    }
}
