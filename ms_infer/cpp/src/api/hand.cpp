// The C interface: the hand.
#include "api/common.hpp"

using namespace ms_infer::api;
using ms_infer::Point;
using ms_infer::require;

namespace {

ms_infer::Hand& hand_of(ms_hand* hand) { return given(hand, "hand")->hand; }

}  // namespace

extern "C" {

ms_status ms_hand_create(int32_t rows, int32_t cols, double aspect, double fps, int32_t capacity, ms_hand** out) {
  return guarded([&] {
    *given(out, "hand") = nullptr;
    *out = new ms_hand{ms_infer::Hand({rows, cols, aspect, fps, capacity})};
  });
}

void ms_hand_destroy(ms_hand* hand) { delete hand; }

ms_status ms_hand_options(ms_hand* hand, int32_t hold_rest, int32_t hold_released) {
  return guarded([&] { hand_of(hand).hold(hold_rest != 0, hold_released != 0); });
}

ms_status ms_hand_press(ms_hand* hand, int64_t pointer, double x, double y, double at, double reach, const double* thing,
                        int32_t count) {
  return guarded([&] { hand_of(hand).press(pointer, {x, y}, at, reach, places_of(thing, count)); });
}

ms_status ms_hand_move(ms_hand* hand, int64_t pointer, double x, double y, double at) {
  return guarded([&] { hand_of(hand).move(pointer, {x, y}, at); });
}

ms_status ms_hand_release(ms_hand* hand, int64_t pointer) {
  return guarded([&] { hand_of(hand).release(pointer); });
}

ms_status ms_hand_static(ms_hand* hand, const double* points, int32_t count) {
  return guarded([&] { hand_of(hand).fix(places_of(points, count)); });
}

ms_status ms_hand_brush(ms_hand* hand, const double* points, int32_t count) {
  return guarded([&] { hand_of(hand).brush(places_of(points, count)); });
}

ms_status ms_hand_remove(ms_hand* hand, const double* points, int32_t count) {
  return guarded([&] { hand_of(hand).remove(places_of(points, count)); });
}

ms_status ms_hand_path(ms_hand* hand, const double* points, int32_t count, double seconds, double reach,
                       const double* thing, int32_t thing_count) {
  return guarded(
      [&] { hand_of(hand).path(places_of(points, count), seconds, reach, places_of(thing, thing_count)); });
}

ms_status ms_hand_steer(ms_hand* hand, double x, double y, double zoom, double roll) {
  return guarded([&] { hand_of(hand).steer({{x, y, zoom, roll}}); });
}

ms_status ms_hand_carry(ms_hand* hand, double x, double y, double zoom, double roll) {
  return guarded([&] { hand_of(hand).carry({{x, y, zoom, roll}}); });
}

ms_status ms_hand_grid(ms_hand* hand, int32_t rows, int32_t cols) {
  return guarded([&] { hand_of(hand).grid(rows, cols); });
}

ms_status ms_hand_play(ms_hand* hand, const ms_tracks* tracks, int32_t loop) {
  return guarded([&] { hand_of(hand).play(tracks ? tracks->tracks.get() : nullptr, loop != 0); });
}

ms_status ms_hand_push(ms_hand* hand, const double* movement, int32_t rows, int32_t cols) {
  return guarded([&] {
    ms_infer::Hand& target = hand_of(hand);
    if (!movement) return target.push({}, 0, 0);
    require(rows >= 1 && cols >= 1 && std::int64_t{rows} * cols <= 1 << 20, MS_ERROR_CONFIG, "movement is [", rows, ", ",
            cols, ", 2]; expected 1 or more rows and columns");
    target.push({movement, 2 * static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols)}, rows, cols);
  });
}

ms_status ms_hand_tracks(ms_hand* hand, double now, int32_t frames, ms_tracks** tracks) {
  return guarded([&] {
    *given(tracks, "tracks") = nullptr;
    hand_out(tracks, hand_of(hand).tracks(now, frames));
  });
}

ms_status ms_hand_save(const ms_hand* hand, double now, void* bytes, size_t* size) {
  return guarded([&] {
    const auto saved = given(hand, "hand")->hand.save(now);
    const std::size_t room = *given(size, "size");
    *size = saved.size();
    if (!bytes) return;
    require(room >= saved.size(), MS_ERROR_CONFIG, "bytes has room for ", room, " bytes; this hand needs ", saved.size());
    std::memcpy(bytes, saved.data(), saved.size());
  });
}

ms_status ms_hand_load(ms_hand* hand, double now, const void* bytes, size_t size) {
  return guarded([&] {
    const auto* first = static_cast<const unsigned char*>(given(bytes, "bytes"));
    hand_of(hand).load(now, {first, first + size});
  });
}

}  // extern "C"
