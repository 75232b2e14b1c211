//! Typed arrays as JavaScript passes them: a pointer to their bytes, which may be a SharedArrayBuffer's.
//!
//! The bindings of the napi crate make slices of typed arrays. A slice promises that nobody writes to it, which is not
//! so for memory that other threads share. Here it is atomics instead.

use crate::error::Failure;
use napi::bindgen_prelude::{FromNapiValue, TypeName, ValueType};
use napi::{Error, Status, check_status, sys};
use std::marker::PhantomData;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU8, AtomicU32, AtomicU64};

/// An element type of typed arrays.
pub trait Element {
    const ARRAY: &'static str;
    fn is_array_type(code: sys::napi_typedarray_type) -> bool;
}

macro_rules! element {
    ($atomic:ty, $array:literal, $($code:ident)|+) => {
        impl Element for $atomic {
            const ARRAY: &'static str = $array;

            fn is_array_type(code: sys::napi_typedarray_type) -> bool {
                [$(sys::TypedarrayType::$code),+].contains(&code)
            }
        }
    };
}

element!(AtomicU8, "Uint8Array", uint8_array);
element!(AtomicU32, "Int32Array", int32_array);
element!(AtomicI32, "Int32Array", int32_array);
element!(AtomicI64, "BigInt64Array", bigint64_array);
element!(AtomicU64, "Float64Array", float64_array);

/// A typed array of a call that is running: JavaScript keeps it alive until the call returns, and no value of this type
/// outlives its call.
pub struct TypedArray<T> {
    start: NonNull<T>,
    length: usize,
    element: PhantomData<T>,
}

impl<T> TypedArray<T> {
    /// The elements, as other threads may change them at any time.
    pub fn shared(&self) -> &[T]
    where
        T: Element,
    {
        // SAFETY: napi gave `length` elements from `start` on, aligned for their type. They live as long as `self`.
        // Elements are atomics, so writes by other threads are no data races.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    /// The first element of an array that must have at least `count`.
    pub fn word(&self, index: usize, name: &str) -> Result<&T, Failure>
    where
        T: Element,
    {
        self.shared().get(index).ok_or_else(|| {
            Failure::bad_argument(format!("{name}: needs at least {} entries", index + 1))
        })
    }
}

impl TypedArray<AtomicU8> {
    /// The bytes, which the caller does not change during the call.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: as above. The contract of the core says that content is not written to while a call works on it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.length) }
    }

    pub fn writable(&self) -> crate::segment::Memory<'_> {
        // SAFETY: `length` bytes from `start` on are the array's for as long as `self` lives.
        unsafe { crate::segment::Memory::new(self.start.as_ptr().cast(), self.length) }
    }
}

impl<T> TypeName for TypedArray<T> {
    fn type_name() -> &'static str {
        "TypedArray"
    }

    fn value_type() -> ValueType {
        ValueType::Object
    }
}

impl<T: Element> FromNapiValue for TypedArray<T> {
    unsafe fn from_napi_value(env: sys::napi_env, value: sys::napi_value) -> napi::Result<Self> {
        let mut code = 0;
        let mut length = 0;
        let mut start = null_mut();
        check_status!(
            // SAFETY: `env` and `value` come from the running call, and the out pointers are to locals; napi allows
            // null for what is not wanted.
            unsafe {
                sys::napi_get_typedarray_info(
                    env,
                    value,
                    &raw mut code,
                    &raw mut length,
                    &raw mut start,
                    null_mut(),
                    null_mut(),
                )
            },
            "expected a {}",
            T::ARRAY
        )?;
        if !T::is_array_type(code) {
            return Err(Error::new(
                Status::InvalidArg,
                format!("expected a {}", T::ARRAY),
            ));
        }
        // The start of an empty array may be null.
        let start = match NonNull::new(start.cast::<T>()) {
            Some(start) if length > 0 && start.is_aligned() => start,
            _ if length == 0 => NonNull::dangling(),
            _ => {
                return Err(Error::new(
                    Status::InvalidArg,
                    format!("a {} without aligned memory", T::ARRAY),
                ));
            }
        };
        Ok(TypedArray {
            start,
            length,
            element: PhantomData,
        })
    }
}
