// What the functions of the C interface share: errors to statuses, structs of other sizes, handles.
#pragma once

#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "hand/hand.hpp"
#include "stream.hpp"
#include "ms_infer/ms_infer.h"

struct ms_model {
  std::shared_ptr<ms_infer::Model> model;
};

struct ms_stream {
  std::unique_ptr<ms_infer::Stream> stream;
};

struct ms_state {
  ms_infer::StreamState state;
};

struct ms_tracks {
  std::shared_ptr<const ms_infer::Tracks> tracks;
};

struct ms_hand {
  ms_infer::Hand hand;
};

namespace ms_infer::api {

// Keeps the words for `ms_last_error` of this thread.
ms_status remember(ms_status status, const char* words) noexcept;

// Runs the work of a function; nothing is thrown across the interface.
template <class Work>
ms_status guarded(Work&& work) noexcept {
  try {
    work();
    return MS_OK;
  } catch (const Error& error) {
    return remember(error.status, error.what());
  } catch (const std::bad_alloc&) {
    return remember(MS_ERROR_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return remember(MS_ERROR_INTERNAL, error.what());
  } catch (...) {
    return remember(MS_ERROR_INTERNAL, "an unknown error");
  }
}

template <class Pointer>
Pointer* given(Pointer* pointer, const char* name) {
  require(pointer != nullptr, MS_ERROR_CONFIG, name, " is NULL");
  return pointer;
}

inline std::string text_or(const char* text, const char* otherwise) { return text ? text : otherwise; }

// The size that a struct had in its first version.
template <class Struct>
constexpr std::size_t kFirstSize = sizeof(Struct);

// A struct of the caller's, whose header may be older: what it does not know is 0, which means the default.
template <class Struct>
Struct read_struct(const Struct* value, const char* name) {
  const std::size_t size = given(value, name)->struct_size;
  require(size >= kFirstSize<Struct> && size <= sizeof(Struct), MS_ERROR_CONFIG, name, ".struct_size is ", size,
          ", this library expects ", kFirstSize<Struct>, "..", sizeof(Struct), "; begin the struct with {sizeof ", name,
          "}, and do not build with a newer header than the library's");
  Struct copy{};
  std::memcpy(&copy, value, size);
  return copy;
}

// What the caller's struct has room for.
template <class Struct>
void write_struct(Struct* target, const Struct& value) {
  const std::size_t size = target->struct_size;
  std::memcpy(static_cast<void*>(target), &value, size);
}

inline Stream& opened(const ms_stream* stream) { return *given(stream, "stream")->stream; }

inline void hand_out(ms_tracks** target, Tracks tracks) {
  *target = new ms_tracks{std::make_shared<const Tracks>(std::move(tracks))};
}

// Places [count, 2] x and y; NULL is fine where count is 0.
std::vector<Point> places_of(const double* places, int32_t count);

// Opens the bundle that the params name.
std::shared_ptr<Model> open_model(const ms_model_params* params);

}  // namespace ms_infer::api
