// The C interface with the stand-in engine: the loop, its controls, snapshots, failures and threads.
#include <algorithm>
#include <atomic>
#include <new>
#include <numeric>
#include <thread>

#include "api.hpp"

namespace {

std::atomic<long> allocations{0};
thread_local bool counting = false;

}  // namespace

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"  // malloc and free are a pair, inlined or not
#endif
// Counts what this library allocates while a test asks for it.
void* operator new(std::size_t size) {
  if (counting) ++allocations;
  if (void* memory = std::malloc(size ? size : 1)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

TEST(a_stream_counts_its_chunks) {
  StreamHolder holder;
  must(open(bundle, holder));
  const auto first = step(holder.stream);
  CHECK_EQUAL(first.index, 0);
  CHECK_EQUAL(first.rgb_frames, 9);
  const auto second = step(holder.stream);
  CHECK_EQUAL(second.index, 1);
  CHECK_EQUAL(second.first_rgb_frame, 9);
  CHECK_EQUAL(second.rgb_frames, 12);
  ms_stream_info info = {};
  info.struct_size = sizeof info;
  must(ms_stream_get_info(holder.stream, &info));
  CHECK_EQUAL(std::string(info.engine), "stand_in fp32");
  CHECK_EQUAL(info.rgb_frames, second.rgb_frames);
  CHECK_EQUAL(info.width, second.width);
  CHECK_EQUAL(info.max_tracks, 24);
}

TEST(seeds_and_controls_decide_the_frames) {
  StreamHolder a, b;
  must(open(bundle, a)), must(open(bundle, b));
  start_with_image(a.stream, 5), start_with_image(b.stream, 5);
  CHECK(run(a.stream, 4) == run(b.stream, 4));
  must(ms_stream_set_tracks(b.stream, nullptr, nullptr));
  CHECK(run(a.stream, 1) != run(b.stream, 1));
  start_with_image(a.stream, 5), start_with_image(b.stream, 6);
  CHECK(run(a.stream, 1) != run(b.stream, 1));
}

TEST(reset_starts_over) {
  StreamHolder holder;
  must(open(bundle, holder));
  start_with_image(holder.stream, 5);
  const auto frames = run(holder.stream, 3);
  must(ms_stream_reset(holder.stream));
  CHECK(run(holder.stream, 3) == frames);
}

TEST(controls_take_effect_at_the_next_chunk_and_newest_wins) {
  StreamHolder a, b;
  must(open(bundle, a)), must(open(bundle, b));
  run(a.stream, 2), run(b.stream, 2);
  TracksHolder grid;
  must(ms_tracks_grid(2, 2, 64, 32, 16.0, &grid.tracks));
  int64_t id = 0;
  must(ms_stream_set_tracks(a.stream, nullptr, &id));
  must(ms_stream_set_tracks(a.stream, grid.tracks, &id));
  must(ms_stream_set_tracks(b.stream, grid.tracks, nullptr));
  CHECK_EQUAL(id, 2);
  const auto made = step(a.stream);
  CHECK_EQUAL(made.control_id, 2);
  CHECK(frames_of(made) == frames_of(step(b.stream)));
}

TEST(a_failed_step_changes_nothing) {
  StreamHolder a, b;
  must(open(bundle, a)), must(open(bundle, b));
  start_with_image(a.stream, 5), start_with_image(b.stream, 5);
  run(a.stream, 2), run(b.stream, 2);
  for (int stage = 1; stage <= 7; ++stage) {  // points, tracks, three passes, decode, clean pass
    ms_infer::fail_stand_in_after(stage);
    ms_chunk chunk = new_chunk();
    expect(ms_stream_step(a.stream, &chunk), MS_ERROR_DEVICE, "told to fail");
  }
  CHECK(run(a.stream, 6) == run(b.stream, 6));
}

TEST(a_stream_from_nothing_forgets_the_picture_before_it) {
  StreamHolder a, b;
  must(open(bundle, a));
  const std::string folder = bundle.string();
  auto params = params_of(folder);
  params.engine = "stand_in_whole";
  must(ms_stream_open(&params, nullptr, &b.stream));
  start_with_image(b.stream, 5), run(b.stream, 1);
  for (auto* stream : {a.stream, b.stream}) must(ms_stream_start(stream, nullptr));
  CHECK(run(a.stream, 3) == run(b.stream, 3));
}

TEST(the_times_of_stages_are_those_of_whoever_runs_them) {
  StreamHolder host, whole;
  must(open(bundle, host));
  const std::string folder = bundle.string();
  auto params = params_of(folder);
  params.engine = "stand_in_whole";
  must(ms_stream_open(&params, nullptr, &whole.stream));
  const ms_chunk told = step(whole.stream), measured = step(host.stream);
  CHECK(told.begin_ms == 1 && told.denoise_ms == 2 && told.decode_ms == 3 && told.write_cache_ms == 4);
  CHECK(told.chunk_ms > 0);
  const float parts[] = {measured.begin_ms, measured.denoise_ms, measured.decode_ms, measured.write_cache_ms};
  CHECK(*std::min_element(parts, parts + 4) > 0);
  CHECK(std::accumulate(parts, parts + 4, 0.0f) <= measured.chunk_ms);
}

TEST(an_engine_that_takes_whole_chunks_makes_the_same_frames) {
  StreamHolder a, b, c;
  must(open(bundle, a));
  const std::string folder = bundle.string(), path = (scratch / "whole.snapshot").string();
  auto params = params_of(folder);
  params.engine = "stand_in_whole";
  must(ms_stream_open(&params, nullptr, &b.stream));
  must(ms_stream_open(&params, nullptr, &c.stream));
  ms_prompt prompt = {};
  prompt.struct_size = sizeof prompt;
  prompt.text = "a dog", prompt.recache = 1;
  for (auto* stream : {a.stream, b.stream}) start_with_image(stream, 5), run(stream, 2);
  ms_infer::fail_stand_in_after(5);
  ms_chunk chunk = new_chunk();
  expect(ms_stream_step(b.stream, &chunk), MS_ERROR_DEVICE, "told to fail");
  for (auto* stream : {a.stream, b.stream}) must(ms_stream_set_prompt(stream, &prompt, nullptr));
  CHECK(run(a.stream, 6) == run(b.stream, 6));
  must(ms_stream_snapshot(b.stream, path.c_str()));
  must(ms_stream_restore(c.stream, path.c_str()));
  CHECK(run(c.stream, 3) == run(a.stream, 3));
}

TEST(a_snapshot_goes_on_where_it_stood) {
  StreamHolder a, b;
  must(open(bundle, a)), must(open(bundle, b));
  start_with_image(a.stream, 5);
  run(a.stream, 5);
  const std::string path = (scratch / "one.snapshot").string();
  must(ms_stream_snapshot(a.stream, path.c_str()));
  run(b.stream, 1);
  must(ms_stream_restore(b.stream, path.c_str()));
  CHECK(run(a.stream, 4) == run(b.stream, 4));
}

TEST(reset_after_restore_starts_what_the_snapshot_holds) {
  StreamHolder a, b;
  must(open(bundle, a)), must(open(bundle, b));
  start_with_image(a.stream, 5);
  run(a.stream, 2);
  const std::string path = (scratch / "again.snapshot").string();
  must(ms_stream_snapshot(a.stream, path.c_str()));
  must(ms_stream_restore(b.stream, path.c_str()));
  run(b.stream, 1);
  must(ms_stream_reset(a.stream)), must(ms_stream_reset(b.stream));
  CHECK(run(a.stream, 3) == run(b.stream, 3));
}

TEST(a_damaged_snapshot_leaves_the_stream_as_it_was) {
  StreamHolder a, b;
  must(open(bundle, a)), must(open(bundle, b));
  start_with_image(a.stream, 5), start_with_image(b.stream, 5);
  const fs::path path = scratch / "two.snapshot";
  must(ms_stream_snapshot(a.stream, path.string().c_str()));
  std::string text = read_text(path);
  const auto digest = text.find("\"digest\":\"");
  text[digest + 12] = text[digest + 12] == 'a' ? 'b' : 'a';
  std::ofstream(path, std::ios::binary) << text;
  expect(ms_stream_restore(a.stream, path.string().c_str()), MS_ERROR_CONFIG, "other settings or another engine");
  fs::resize_file(path, 1000);
  expect(ms_stream_restore(a.stream, path.string().c_str()), MS_ERROR_CONFIG, "not a readable snapshot");
  expect(ms_stream_restore(a.stream, "/nowhere/at/all"), MS_ERROR_CONFIG, "cannot read");
  expect(ms_stream_snapshot(a.stream, "/nowhere/at/all"), MS_ERROR_CONFIG, "cannot write");
  CHECK(run(a.stream, 2) == run(b.stream, 2));
}

TEST(prompts_come_as_words_embeddings_and_files) {
  StreamHolder a, b;
  must(open(bundle, a)), must(open(bundle, b));
  run(a.stream, 1), run(b.stream, 1);
  std::vector<float> values(2 * 8);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = float(i) / 4;
  const fs::path path = scratch / "prompt.npy";
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 8), }";
  header.resize(117, ' ');
  const std::string magic = std::string("\x93NUMPY\x01\x00", 8) + char(118) + '\0' + header + '\n';
  std::ofstream(path, std::ios::binary) << magic << std::string(reinterpret_cast<char*>(values.data()), 64);
  const std::string name = path.string();
  ms_prompt prompt = {};
  prompt.struct_size = sizeof prompt;
  prompt.embedding = values.data(), prompt.embedding_tokens = 2, prompt.recache = 1;
  must(ms_stream_set_prompt(a.stream, &prompt, nullptr));
  prompt.embedding = nullptr, prompt.embedding_file = name.c_str();
  must(ms_stream_set_prompt(b.stream, &prompt, nullptr));
  CHECK(run(a.stream, 2) == run(b.stream, 2));
  prompt.embedding_file = nullptr, prompt.text = "night";
  must(ms_stream_set_prompt(b.stream, &prompt, nullptr));
  CHECK(run(a.stream, 1) != run(b.stream, 1));
  prompt.embedding = values.data(), prompt.embedding_tokens = 7;
  expect(ms_stream_set_prompt(a.stream, &prompt, nullptr), MS_ERROR_CONFIG, "expected 0..6");
}

TEST(a_prompt_comes_over_chunks_and_at_once_for_an_older_header) {
  StreamHolder a, b, older;
  for (auto* holder : {&a, &b, &older}) must(open(bundle, *holder)), run(holder->stream, 2);
  ms_prompt prompt = {};
  prompt.struct_size = sizeof prompt, prompt.text = "night", prompt.over = 3;
  must(ms_stream_set_prompt(a.stream, &prompt, nullptr));
  prompt.struct_size = offsetof(ms_prompt, over);  // what it does not know is its default
  must(ms_stream_set_prompt(older.stream, &prompt, nullptr));
  prompt.struct_size = sizeof prompt, prompt.over = 0;
  must(ms_stream_set_prompt(b.stream, &prompt, nullptr));
  const std::string slowly = run(a.stream, 2), at_once = run(b.stream, 2);
  CHECK(run(older.stream, 2) == at_once);
  CHECK(slowly != at_once);
  prompt.over = -1;
  expect(ms_stream_set_prompt(a.stream, &prompt, nullptr), MS_ERROR_CONFIG, "takes 1 to");
}

TEST(a_paused_stream_refuses_steps_and_takes_controls) {
  StreamHolder holder;
  must(open(bundle, holder));
  must(ms_stream_pause(holder.stream));
  ms_chunk chunk = new_chunk();
  expect(ms_stream_step(holder.stream, &chunk), MS_ERROR_STATE, "paused");
  must(ms_stream_set_tracks(holder.stream, nullptr, nullptr));
  must(ms_stream_resume(holder.stream));
  must(ms_stream_step(holder.stream, &chunk));
}

TEST(the_loop_allocates_nothing) {
  StreamHolder holder;
  must(open(bundle, holder));
  start_with_image(holder.stream, 5);
  run(holder.stream, 4);
  allocations = 0;
  counting = true;
  for (int i = 0; i < 100; ++i) {
    ms_chunk chunk = new_chunk();
    if (ms_stream_step(holder.stream, &chunk) != MS_OK) allocations = -1'000'000;
  }
  counting = false;
  CHECK_EQUAL(allocations.load(), 0);
}

TEST(two_streams_in_two_threads_and_controls_from_a_third) {
  StreamHolder alone, a, b;
  must(open(bundle, alone)), must(open(bundle, a)), must(open(bundle, b));
  start_with_image(alone.stream, 5), start_with_image(a.stream, 5);
  std::string wanted = run(alone.stream, 40), made;
  std::atomic<bool> over{false};
  std::thread first([&] { made = run(a.stream, 40); });
  std::thread second([&] { run(b.stream, 40), over = true; });
  std::thread third([&] {
    TracksHolder grid;
    must(ms_tracks_grid(2, 2, 0, 0, 16.0, &grid.tracks));
    ms_prompt prompt = {};
    prompt.struct_size = sizeof prompt;
    prompt.text = "a dog";
    while (!over) {
      must(ms_stream_set_tracks(b.stream, grid.tracks, nullptr));
      must(ms_stream_set_prompt(b.stream, &prompt, nullptr));
    }
  });
  first.join(), second.join(), third.join();
  CHECK(made == wanted);
}

int main(int count, char** arguments) { return api_main(count, arguments, "loop"); }
