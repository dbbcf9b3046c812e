// Host logic without a bundle: JSON, SHA-256, ring, noise, schedule, rotation tables, tracks, words, files.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <numeric>

#include <unistd.h>

#include "numerics/angles.hpp"
#include "check.hpp"
#include "config.hpp"
#include "files/json.hpp"
#include "numerics/noise.hpp"
#include "media/picture.hpp"
#include "engines/ring.hpp"
#include "numerics/schedule.hpp"
#include "bundle/sha256.hpp"
#include "files/tensors.hpp"
#include "tracks/tracks.hpp"
#include "words.hpp"

using namespace ms_infer;

namespace {

std::filesystem::path temporary(const char* name) {
  const auto folder = std::filesystem::temp_directory_path() / ("ms_infer_test_" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  return folder / name;
}

Tracks one_track(std::vector<float> points, int frames, std::optional<PictureSize> size = PictureSize{100, 100}) {
  return Tracks::make(std::move(points), std::vector<std::uint8_t>(std::size_t(frames), 1), {7}, frames, size, 16.0);
}

TextConfig small_text() { return {true, 4, 2, {"a", "cat", "k9"}}; }

}  // namespace

TEST(json_reads_what_python_writes) {
  const auto json = Json::parse(R"({"b": [1, -2.5e3, true, null], "a": "\u00e9\n\ud83d\ude00"})");
  CHECK_EQUAL(json.at("b").array()[0].integer(), 1);
  CHECK_EQUAL(json.at("b").array()[1].number(), -2500.0);
  CHECK_EQUAL(json.at("a").string(), "\xC3\xA9\n\xF0\x9F\x98\x80");
  CHECK_EQUAL(json.sorted_text(), R"({"a": "\u00e9\n\ud83d\ude00", "b": [1, -2.5e3, true, null]})");
}

TEST(json_refuses_what_is_no_json) {
  for (const char* text : {"", "{", "[1,]", "{\"a\":1,}", "01", "1.", "+1", "nul", "\"\\x\"", "\"\\ud800\"", "\"a", "[1] 2",
                           "{\"a\":1,\"a\":2}", "NaN", "'a'", "\"\x01\"", "-", "1e", "[1 2]", "{1:2}"})
    CHECK_THROWS(MS_ERROR_BUNDLE, Json::parse(text));
}

TEST(json_is_bounded) {
  CHECK_THROWS(MS_ERROR_BUNDLE, Json::parse(std::string(100'000, '[')));
  CHECK_THROWS(MS_ERROR_BUNDLE, Json::parse("99999999999999999999").integer());
  CHECK_THROWS(MS_ERROR_BUNDLE, Json::parse("1e999").number());
}

TEST(sha256_matches_the_published_examples) {
  CHECK_EQUAL(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK_EQUAL(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK_EQUAL(sha256(std::string(1'000'000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(ring_slots_hold_the_newest_window) {
  for (const int sink : {0, 1, 3})
    for (const int window : {0, 2, 3, 6}) {
      ContextConfig context{3, sink, window, 3, true};
      std::vector<std::int64_t> held(std::size_t(context.cache_frames()), -1);
      for (std::int64_t start = 0; start < 60; start += 3) {
        const Placement placement = context.place(start, 3);
        for (std::int64_t frame = start; frame < start + 3; ++frame) held[std::size_t(context.slot(frame))] = frame;
        std::vector<std::int64_t> valid(held.begin(), held.begin() + placement.valid_frames), expected;
        for (std::int64_t frame = 0; frame < start + 3; ++frame)
          if (start + 3 <= context.cache_frames() || frame < sink || frame >= start - window) expected.push_back(frame);
        std::sort(valid.begin(), valid.end());
        CHECK(valid == expected);
        CHECK_EQUAL(placement.sink_position, std::max<std::int64_t>(0, start + 3 - context.cache_frames()));
      }
    }
}

TEST(every_chunk_of_a_ring_lies_in_a_row) {
  for (const int chunk : {1, 2, 3})
    for (const int sink : {0, 1, 3})
      for (const int window : {0, 1, 2, 3, 5, 6})
        for (const int given : {0, 1}) {
          ContextConfig context{chunk, sink, window, chunk, true};
          Ring ring(context, true);
          std::vector<std::int64_t> held(std::size_t(context.cache_frames()), -1);
          if (given) held[0] = 0;
          for (int index = 0; index < 30; ++index) {
            const std::int64_t start = context.start_of_chunk(index, given), end = start + chunk;
            if (const auto move = ring.make_room(start))
              std::copy_n(held.begin() + move->source, move->slots, held.begin() + move->target);
            CHECK(!ring.make_room(start));
            CHECK_EQUAL(ring.slot(end - 1) - ring.slot(start), chunk - 1);
            for (std::int64_t frame = start; frame < end; ++frame) held[std::size_t(ring.slot(frame))] = frame;
            std::vector<std::int64_t> valid(held.begin(), held.begin() + context.place(end, 0).valid_frames), expected;
            for (std::int64_t frame = 0; frame < end; ++frame)
              if (end <= context.cache_frames() || frame < sink || frame >= start - window) expected.push_back(frame);
            std::sort(valid.begin(), valid.end());
            CHECK(valid == expected);
          }
        }
}

TEST(a_run_beside_a_kept_sink_leaves_it_alone) {
  const ContextConfig context{3, 3, 3, 3, true};
  const Placement placement = context.place(12, 9, 0);
  CHECK_EQUAL(placement.first_written, 15);
  CHECK_EQUAL(placement.written(), 6);
  CHECK_THROWS(MS_ERROR_CONFIG, context.place(0, 10));
}

TEST(noise_is_normal_and_counted) {
  std::vector<float> values(40'001), again(100), other(100);
  fill_normal(values, 7, 3, 1);
  fill_normal(again, 7, 3, 1);
  CHECK(std::equal(again.begin(), again.end(), values.begin()));
  fill_normal(other, 7, std::uint64_t{3} + (std::uint64_t{1} << 32), 1);
  CHECK(other != again);
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / double(values.size());
  double variance = 0;
  for (const float value : values) variance += value * value / double(values.size());
  CHECK(std::fabs(mean) < 0.02 && std::fabs(variance - 1) < 0.02);
}

TEST(schedule_has_the_shifted_sigmas) {
  const ScheduleConfig config{.timesteps = {1000, 750, 500, 250}, .warp = true, .shift = 5.0};
  const auto steps = denoise_steps(config);
  CHECK_EQUAL(steps.size(), 4u);
  for (std::size_t i = 0; i < 4; ++i) {
    const double s = 1 - double(i) / 4, sigma = 5 * s / (1 + 4 * s);
    CHECK(std::fabs(steps[i].sigma - sigma) < 1e-6 && std::fabs(steps[i].timestep - 1000 * sigma) < 1e-3);
    CHECK_EQUAL(steps[i].next_sigma, i < 3 ? steps[i + 1].sigma : 0.0);
  }
}

TEST(rotation_tables_move_only_in_time) {
  std::vector<float> cos(2 * 6 * 6), sin(2 * 6 * 6);
  RotationTables tables(cos, sin, 2, 3, 12);
  const auto before = cos;
  tables.move_to(10'000'000);
  for (std::size_t token = 0; token < 12; ++token) {
    CHECK(std::fabs(cos[token * 6] - std::cos(double(10'000'000 + token / 6))) < 1e-7);
    for (std::size_t i = 2; i < 6; ++i) CHECK_EQUAL(cos[token * 6 + i], before[token * 6 + i]);
    CHECK_EQUAL(cos[token * 6 + 2], float(std::cos(double(token % 6 / 3))));
    CHECK_EQUAL(sin[token * 6 + 4], float(std::sin(double(token % 3))));
  }
}

TEST(a_grid_stands_at_the_centres) {
  const auto grid = Tracks::grid(2, 3, PictureSize{20, 60}, 16.0);
  CHECK_EQUAL(grid.count(), 6);
  CHECK_EQUAL(grid.point(4, 0)[0], 30.0f);
  CHECK_EQUAL(grid.point(4, 0)[1], 15.0f);
}

TEST(a_drag_moves_the_nearest_point_and_holds_it) {
  const auto grid = Tracks::grid(1, 2, PictureSize{100, 100}, 16.0);
  const std::vector<Point> corners{{20, 50}, {30, 60}};
  const auto moved = grid.path(corners, 0.5, 0.0, 0.25, true);
  CHECK_EQUAL(moved.frames, 13);
  CHECK_EQUAL(moved.point(0, 4)[0], 25.0f);
  CHECK_EQUAL(moved.point(0, 12)[0], 35.0f);
  CHECK_EQUAL(moved.point(0, 12)[1], 60.0f);
  CHECK_EQUAL(moved.point(1, 12)[0], 75.0f);
}

TEST(resampling_keeps_the_last_position) {
  const auto twice = one_track({0, 0, 10, 20, 20, 40}, 3).resample(32.0);
  CHECK_EQUAL(twice.frames, 5);
  CHECK_EQUAL(twice.point(0, 1)[0], 5.0f);
  CHECK_EQUAL(twice.point(0, 4)[1], 40.0f);
}

TEST(tracks_that_cannot_be_are_refused) {
  CHECK_THROWS(MS_ERROR_CONFIG, one_track({NAN, 0}, 1));
  CHECK_THROWS(MS_ERROR_CONFIG, one_track({500, 0}, 1, std::nullopt));
  CHECK_THROWS(MS_ERROR_CONFIG, one_track({2e6f, 0}, 1));
  CHECK_THROWS(MS_ERROR_CONFIG, Tracks::make({0, 0, 1, 1}, {1, 1}, {3, 3}, 1, PictureSize{9, 9}, 16));
  CHECK_THROWS(MS_ERROR_CONFIG, Tracks::make({0, 0}, {1}, {-1}, 1, PictureSize{9, 9}, 16));
  CHECK_THROWS(MS_ERROR_CONFIG, Tracks::grid(0, 3, std::nullopt, 16));
  CHECK_THROWS(MS_ERROR_CONFIG, Tracks::grid(1, 1, std::nullopt, 0));
}

TEST(a_player_keeps_anchors_of_known_ids_and_makes_those_of_new_ones) {
  TrackPlayer player({100, 100}, 16.0, 4);
  const auto first = one_track({10, 10, 20, 10}, 2);
  player.set(&first, 0);
  const auto second = Tracks::make({50, 50, 22, 10}, {1, 1}, {7, 8}, 1, PictureSize{100, 100}, 16.0);
  player.set(&second, 9);
  std::vector<float> points(4 * 3 * 2), anchors(8);
  std::vector<std::uint8_t> visible(12);
  std::vector<std::int64_t> ids(4);
  player.fill(9, 3, points, visible, ids, anchors);
  CHECK_EQUAL(anchors[0], 10.0f);
  CHECK_EQUAL(anchors[2], 12.0f);  // 22 - (20 - 10): it moves with its neighbour
  CHECK_EQUAL(ids[1], 8);
  CHECK_EQUAL(int(visible[6]), 0);
  CHECK_THROWS(MS_ERROR_CONFIG, player.set(&first, 3));
  const auto many = Tracks::grid(3, 3, std::nullopt, 16.0);
  CHECK_THROWS(MS_ERROR_CONFIG, player.set(&many, 12));
}

TEST(words_become_rows) {
  std::vector<std::int64_t> rows(4);
  Tokenizer(small_text()).fill("A CAT, unknown!", rows);
  CHECK(rows == (std::vector<std::int64_t>{1, 2, 0, -1}));
  Tokenizer(small_text()).fill("\xE2\x84\xAA" "9 a a a a a", rows);
  CHECK(rows == (std::vector<std::int64_t>{3, 1, 1, 1}));
}

TEST(embeddings_are_padded_or_refused) {
  const std::vector<float> values{1, 2, 3, 4};
  CHECK(padded_embedding(values, 2, small_text()) == (std::vector<float>{1, 2, 3, 4, 0, 0, 0, 0}));
  CHECK_THROWS(MS_ERROR_CONFIG, padded_embedding(values, 1, small_text()));
  CHECK_THROWS(MS_ERROR_CONFIG, padded_embedding(std::vector<float>{NAN, 0}, 1, small_text()));
  CHECK_THROWS(MS_ERROR_CONFIG, read_embedding(temporary("absent.npy"), small_text()));
  std::ofstream(temporary("bad.npy")) << "\x93NUMPY and then nothing of use";
  CHECK_THROWS(MS_ERROR_CONFIG, read_embedding(temporary("bad.npy"), small_text()));
}

TEST(a_picture_of_one_colour_stays_so) {
  std::vector<std::uint8_t> grey(3 * 37 * 53, 119);
  for (const auto& to : {PictureSize{16, 16}, PictureSize{128, 64}, PictureSize{37, 53}}) {
    const auto fitted = fit_picture(grey, {37, 53}, to);
    CHECK_EQUAL(fitted.size(), std::size_t(3 * to.height * to.width));
    for (const auto value : fitted) CHECK_EQUAL(int(value), 119);
  }
}

TEST(safetensors_come_back_and_damage_is_noticed) {
  const auto path = temporary("one.safetensors");
  const Bytes data{1, 2, 3, 4, 5, 6, 7, 8};
  write_safetensors(path, {{"a \"b\"", {Dtype::float32, {2, 1}, data}}}, {{"format", "x"}});
  const Safetensors file(path);
  CHECK_EQUAL(file.metadata().at("format"), "x");
  CHECK(std::ranges::equal(file.at("a \"b\"", Dtype::float32, {2, 1}).data, data));
  CHECK_THROWS(MS_ERROR_CONFIG, file.at("a \"b\"", Dtype::int64));
  CHECK_THROWS(MS_ERROR_CONFIG, file.at("b", Dtype::int64));
  for (const std::uintmax_t size : {0u, 7u, 20u, 100u}) {
    std::filesystem::resize_file(path, size);
    CHECK_THROWS(MS_ERROR_CONFIG, Safetensors{path});
  }
}

int main(int count, char** names) { return check::main(count, names); }
