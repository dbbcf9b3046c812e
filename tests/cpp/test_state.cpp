// States and controls with the stand-in engine and real threads, through ms_infer.hpp: nothing is lost, nothing is half
// done, and a call at the wrong time says so.
#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>

#include "check.hpp"
#include "ms_infer/ms_infer.hpp"
#include "stand_in.hpp"

namespace fs = std::filesystem;

namespace {

fs::path bundle, scratch;

ms::Stream open(const fs::path& folder = bundle) { return ms::Stream(folder.string(), {.engine = "stand_in"}); }

std::string frames_of(const ms::Chunk& chunk) {
  return {reinterpret_cast<const char*>(chunk.frames.data()), chunk.frames.size()};
}

std::string run(ms::Stream& stream, int chunks) {
  std::string all;
  for (int i = 0; i < chunks; ++i) all += frames_of(stream.step());
  return all;
}

// Points that move as the number says.
ms::Tracks moved(int number) { return ms::Tracks::grid(2, 2).drag({0.3, 0.3}, {0.3 + 0.01 * number, 0.6}); }

void start(ms::Stream& stream, int number = 20) {
  std::vector<std::uint8_t> image(3 * 64 * 32);
  for (std::size_t i = 0; i < image.size(); ++i) image[i] = static_cast<std::uint8_t>(i * 7);
  stream.start({.image = {image, 64, 32}, .prompt = {.text = "a cat"}, .tracks = moved(number), .seed = 5});
}

void expect(ms_status status, const std::string& words, const auto& work) {
  try {
    work();
  } catch (const ms::Error& error) {
    CHECK_EQUAL(std::string(ms_status_name(error.status())), ms_status_name(status));
    CHECK_CONTAINS(error.what(), words);
    return;
  }
  check::failed(__FILE__, __LINE__, "nothing was refused; expected: " + words);
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_file(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const auto place = text.find(from);
  CHECK(place != std::string::npos);
  return text.replace(place, from.size(), to);
}

}  // namespace

TEST(no_control_is_lost_beside_starts_and_steps) {
  // A chunk is made with what its control_id says: a control of the other thread, or else the start's tracks.
  constexpr int kKinds = 8, kStarts = 1500;
  ms::Stream stream = open();
  std::map<std::string, int> kinds;  // frames of a first chunk -> which tracks it was made with; kKinds: the start's
  for (int kind = 0; kind <= kKinds; ++kind) {
    start(stream, kKinds);
    if (kind < kKinds) stream.set_tracks(moved(kind));
    kinds[run(stream, 1)] = kind;
  }
  CHECK_EQUAL(kinds.size(), std::size_t(kKinds + 1));
  std::map<std::int64_t, int> given;
  std::vector<std::pair<std::int64_t, int>> made;
  std::atomic<bool> over{false};
  std::thread other([&] {
    for (int kind = 0; !over; kind = (kind + 1) % kKinds) given[stream.set_tracks(moved(kind))] = kind;
  });
  for (int i = 0; i < kStarts; ++i) {
    start(stream, kKinds);
    const ms::Chunk chunk = stream.step();
    const auto kind = kinds.find(frames_of(chunk));
    made.emplace_back(chunk.control_id, kind == kinds.end() ? -1 : kind->second);
  }
  over = true;
  other.join();
  int wrong = 0, others = 0;
  for (const auto& [id, kind] : made) {
    const auto found = given.find(id);
    wrong += kind != (found == given.end() ? kKinds : found->second);
    others += found != given.end();
  }
  CHECK_EQUAL(wrong, 0);
  CHECK(others > 0);  // the threads took turns
}

TEST(whoever_waits_for_a_control_never_waits_in_vain) {
  ms::Stream stream = open();
  start(stream);
  const ms::State state = stream.state();
  std::mutex lock;
  std::condition_variable changed;
  std::int64_t newest = 0;
  std::atomic<bool> over{false};
  int waited = 0;
  std::thread other([&] {
    for (; waited < 200; ++waited) {
      const auto wanted = stream.set_tracks(moved(waited % 8));
      std::unique_lock held(lock);
      if (!changed.wait_for(held, std::chrono::seconds(20), [&] { return newest >= wanted; })) break;
    }
    over = true;
  });
  for (int turn = 0; !over; ++turn) {
    if (turn % 3 == 0) start(stream);
    if (turn % 3 == 1) stream.reset();
    if (turn % 3 == 2) stream.load_state(state);
    for (int i = 0; i < 2; ++i) {
      const auto id = stream.step().control_id;
      const std::lock_guard held(lock);
      newest = id;
      changed.notify_all();
    }
  }
  other.join();
  CHECK_EQUAL(waited, 200);
}

TEST(a_control_set_before_the_first_step_is_played) {
  ms::Stream a = open(), b = open();
  CHECK_EQUAL(a.set_tracks(moved(3)), 1);
  CHECK_EQUAL(a.set_prompt({.text = "a dog"}), 2);
  b.start({.prompt = {.text = "a dog"}, .tracks = moved(3)});
  const ms::Chunk chunk = a.step();
  CHECK_EQUAL(chunk.control_id, 2);
  CHECK(frames_of(chunk) == run(b, 1));
}

TEST(ids_only_grow) {
  ms::Stream stream = open();
  start(stream);
  const ms::State state = stream.state();
  std::int64_t last = stream.set_tracks(moved(1));
  for (int turn = 0; turn < 6; ++turn) {
    if (turn % 3 == 0) start(stream);
    if (turn % 3 == 1) stream.reset();
    if (turn % 3 == 2) stream.load_state(state);
    const auto made = stream.step().control_id, set = stream.set_prompt({.text = "snow"});
    CHECK(made > last && set > made);
    last = set;
  }
}

TEST(threads_that_step_one_stream_make_each_chunk_once) {
  ms::Stream stream = open();
  start(stream);
  std::mutex lock;
  std::multiset<std::int64_t> made;
  std::set<ms_status> refused;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int turn = 0; turn < 2000; ++turn) {
        try {
          const auto index = stream.step().index;
          const std::lock_guard held(lock);
          made.insert(index);
        } catch (const ms::Error& error) {
          const std::lock_guard held(lock);
          refused.insert(error.status());
        }
      }
    });
  for (auto& thread : threads) thread.join();
  std::int64_t expected = 0;
  for (const auto index : made) CHECK_EQUAL(index, expected++);
  refused.erase(MS_ERROR_STATE);
  CHECK(refused.empty());
}

TEST(everything_at_once_from_many_threads_is_safe) {
  ms::Stream stream = open();
  start(stream);
  const ms::State state = stream.state();
  std::atomic<int> working{0}, surprises{0};
  const auto tolerant = [&](const auto& work) {
    try {
      work();
    } catch (const ms::Error& error) {
      if (error.status() != MS_ERROR_STATE) ++surprises;
    }
  };
  const auto repeat = [&](auto work) {
    ++working;
    return std::thread([&, work] {
      for (int i = 0; i < 300; ++i) tolerant(work);
      --working;
    });
  };
  std::vector<std::thread> threads;
  threads.push_back(repeat([&] { stream.set_tracks(moved(2)); }));
  threads.push_back(repeat([&] { stream.set_prompt({.text = "a dog", .recache = true}); }));
  threads.push_back(repeat([&] { stream.pause(), stream.resume(); }));
  threads.push_back(repeat([&] { stream.load_state(stream.state()); }));
  threads.push_back(repeat([&] { stream.load_state(state); }));
  while (working) tolerant([&] { stream.step(); });
  for (auto& thread : threads) thread.join();
  stream.step();
  std::thread late = repeat([&] { stream.set_prompt({.text = "snow"}); });  // while the stream closes
  stream.close();
  late.join();
  CHECK_EQUAL(surprises.load(), 0);
}

TEST(a_state_in_memory_is_loaded_often_and_forks) {
  ms::Stream a = open(), b = open();
  start(a);
  for (int chunks = 1; chunks < 7; ++chunks) {
    run(a, 1);
    const ms::State state = a.state();
    const std::string expected = run(a, 3);
    for (ms::Stream* stream : {&b, &a, &b}) {
      stream->load_state(state);
      CHECK(run(*stream, 3) == expected);
    }
  }
}

TEST(a_control_that_no_chunk_has_played_is_part_of_the_state) {
  const std::string path = (scratch / "pending.snapshot").string();
  for (const bool file : {false, true})
    for (const int kind : {0, 1, 2}) {
      ms::Stream a = open(), b = open();
      start(a), run(a, 5);
      if (kind == 0) a.set_tracks(moved(1));
      if (kind == 1) a.set_tracks({});
      if (kind == 2) a.set_prompt({.text = "snow", .recache = true, .replace_sink = true});
      file ? (a.snapshot(path), b.restore(path)) : b.load_state(a.state());
      const ms::Chunk expected = a.step(), made = b.step();
      CHECK(made.control_id == expected.control_id && made.control_id > 0);
      CHECK(frames_of(made) == frames_of(expected));
      CHECK(run(a, 2) == run(b, 2));
    }
}

TEST(a_state_between_two_prompts_goes_on) {
  const std::string path = (scratch / "blend.snapshot").string();
  for (const bool file : {false, true})
    for (int before = 0; before < 4; ++before) {
      ms::Stream a = open(), b = open();
      start(a), run(a, 2);
      a.set_prompt({.text = "snow", .recache = true, .over = 3, .slerp = true});
      run(a, before);
      file ? (a.snapshot(path), b.restore(path)) : b.load_state(a.state());
      CHECK(run(a, 5 - before) == run(b, 5 - before));
    }
}

TEST(a_refused_snapshot_changes_nothing) {
  const fs::path path = scratch / "whole.snapshot", broken = scratch / "broken.snapshot";
  ms::Stream a = open(), b = open(), source = open();
  start(source, 3), run(source, 4), source.set_tracks(moved(1)), source.set_prompt({.text = "snow"});
  source.snapshot(path.string());
  for (ms::Stream* stream : {&a, &b}) start(*stream), run(*stream, 2);
  const std::string whole = read_file(path);
  int refused = 0;
  for (std::size_t place = whole.find("\":{\"dtype"); place != std::string::npos;
       place = whole.find("\":{\"dtype", place + 1)) {  // rename every tensor in turn
    std::string text = whole;
    const std::string name = text.substr(0, place).substr(text.rfind('"', place - 1) + 1);
    if (name == "image" || name == "pending.points") continue;  // a stream may have none
    text[place - 1] ^= 1;
    write_file(broken, text);
    expect(MS_ERROR_CONFIG, "", [&] { b.restore(broken.string()); });
    ++refused;
  }
  CHECK(refused > 20);
  for (const std::string field : {"index", "given", "seed", "tracks_id", "prompt_id", "pending_tracks_id"}) {
    for (const std::string value : {"-1", "x", "99999999999999999999999"}) {
      std::string text = whole;
      const auto at = text.find("\"" + field + "\":\"") + field.size() + 4;
      text.replace(at, text.find('"', at) - at, value);
      const auto length = text.size() - whole.size();
      for (std::size_t byte = 0, carry = length; byte < 8; ++byte) {  // the header's own length
        carry += static_cast<unsigned char>(text[byte]);
        text[byte] = static_cast<char>(carry & 255), carry = static_cast<std::size_t>(static_cast<long long>(carry) >> 8);
      }
      write_file(broken, text);
      expect(MS_ERROR_CONFIG, field == "tracks_id" ? "" : "whole number", [&] { b.restore(broken.string()); });
    }
  }
  CHECK(run(a, 4) == run(b, 4));
}

TEST(a_spoilt_snapshot_is_a_config_error_or_a_snapshot) {
  const fs::path path = scratch / "spoilt.snapshot";
  ms::Stream stream = open();
  start(stream), run(stream, 2);
  stream.snapshot(path.string());
  const std::string whole = read_file(path);
  std::mt19937 chance(1);
  for (int i = 0; i < 2000; ++i) {
    std::string text = whole;
    text[chance() % std::min<std::size_t>(text.size(), 6000)] ^= static_cast<char>(1 << (chance() % 8));
    write_file(path, text);
    try {
      stream.restore(path.string());
    } catch (const ms::Error& error) {
      CHECK_EQUAL(error.status(), MS_ERROR_CONFIG);
    }
  }
}

TEST(a_state_of_other_weights_is_refused) {
  const fs::path copy = scratch / "other";
  fs::copy(bundle, copy, fs::copy_options::recursive);
  const fs::path manifest = copy / "manifest.json";
  write_file(manifest, replaced(read_file(manifest), std::string(64, '0'), std::string(64, '1')));
  ms::Stream a = open(), b = open(copy);
  start(a);
  expect(MS_ERROR_CONFIG, "weights", [&] { b.load_state(a.state()); });
}

TEST(an_embedding_that_is_shorter_than_it_says_is_refused) {
  ms::Stream stream = open();
  const std::vector<float> values(8 + 3, 0.5f);  // two tokens of eight would be sixteen
  const auto prompt = [&](int tokens) {
    ms::Prompt made;
    made.embedding = values, made.embedding_tokens = tokens;
    return made;
  };
  for (const int tokens : {-1, 0, 1, 2, 1 << 30}) {
    expect(MS_ERROR_CONFIG, "embedding", [&] { stream.set_prompt(prompt(tokens)); });
    expect(MS_ERROR_CONFIG, "embedding", [&] { stream.start({.prompt = prompt(tokens)}); });
  }
  ms::Prompt one = prompt(1);
  one.embedding = one.embedding.first(8);
  stream.set_prompt(one);
}

TEST(a_start_that_fails_half_way_gives_no_other_stream) {
  ms::Stream stream = open();
  start(stream), run(stream, 1);
  ms_infer::fail_stand_in_after(2);  // text, then its keys
  expect(MS_ERROR_DEVICE, "told to fail", [&] { start(stream); });
  expect(MS_ERROR_STATE, "lost", [&] { stream.step(); });
  start(stream);
  CHECK_EQUAL(stream.step().index, 0);
}

TEST(calls_at_the_wrong_time_are_state_errors) {
  ms::Stream stream = open();
  expect(MS_ERROR_STATE, "start", [&] { stream.state(); });
  expect(MS_ERROR_STATE, "start", [&] { stream.snapshot((scratch / "none").string()); });
  stream.step();
  const ms::State state = stream.state();
  stream.pause();
  expect(MS_ERROR_STATE, "paused", [&] { stream.step(); });
  stream.load_state(state);
  stream.close();
  expect(MS_ERROR_STATE, "closed", [&] { stream.load_state(state); });
  expect(MS_ERROR_STATE, "closed", [&] { stream.state(); });
}

int main(int count, char** arguments) {
  if (count < 2 || !fs::exists(fs::path(arguments[1]) / "manifest.json")) {
    std::puts("skipped: no stand-in bundle; it needs a Python with numpy (-DPython_EXECUTABLE)");
    return 77;
  }
  bundle = fs::absolute(arguments[1]);
  scratch = fs::temp_directory_path() / ("ms_infer_state_" + std::to_string(std::random_device{}()));
  fs::create_directories(scratch);
  const int result = check::main(count - 1, arguments + 1);
  fs::remove_all(scratch);
  return result;
}
