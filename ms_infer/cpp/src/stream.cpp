#include "stream.hpp"

#include <chrono>

#include "picture.hpp"

namespace ms_infer {

namespace {

// Wall-clock milliseconds between laps.
class Clock {
 public:
  float lap() {
    const auto now = std::chrono::steady_clock::now();
    const float passed = std::chrono::duration<float, std::milli>(now - last_).count();
    last_ = now;
    return passed;
  }
  float total() const { return std::chrono::duration<float, std::milli>(last_ - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now(), last_ = start_;
};

}  // namespace

std::shared_ptr<const Control> Controls::newest() const {
  const std::lock_guard lock(lock_);
  return newest_;
}

std::int64_t Controls::set_tracks(std::shared_ptr<const Tracks> tracks) {
  const std::lock_guard lock(lock_);
  Control next = *newest_;
  next.tracks_id = ++next.id;
  next.tracks = std::move(tracks);
  newest_ = std::make_shared<const Control>(std::move(next));
  return newest_->id;
}

std::int64_t Controls::set_text(std::vector<float> text, bool recache, bool replace_sink) {
  auto shared = std::make_shared<const std::vector<float>>(std::move(text));
  const std::lock_guard lock(lock_);
  Control next = *newest_;
  next.prompt_id = ++next.id;
  next.text = std::move(shared);
  next.recache = recache || replace_sink;
  next.replace_sink = replace_sink;
  newest_ = std::make_shared<const Control>(std::move(next));
  return newest_->id;
}

void Controls::reset(Control control) {
  const std::lock_guard lock(lock_);
  newest_ = std::make_shared<const Control>(std::move(control));
}

Stream::Stream(const std::filesystem::path& bundle, const RunnerOptions& options)
    : manifest_(Manifest::load(bundle)), engine_(std::make_unique<StagedEngine>(manifest_, options)) {
  label_ = engine_->label();
  player_ = new_player();
  applied_ = controls_.newest();
}

StagedEngine& Stream::open() const {
  require(engine_ != nullptr, MS_ERROR_STATE, "the stream is closed; create a new one");
  return *engine_;
}

void Stream::start(const StartOptions& options) {
  open();
  const PictureSize size{config().height, config().width};
  std::vector<std::uint8_t> image;
  if (!options.image.empty()) image = fit_picture(options.image, options.image_size, size);
  auto text = embed(options.prompt);
  check_tracks(options.tracks.get());
  begin_again(std::move(image), std::move(text), options.tracks, options.seed);
}

void Stream::begin_again(std::vector<std::uint8_t> image, std::vector<float> text,
                         std::shared_ptr<const Tracks> tracks, std::uint64_t seed) {
  started_ = false;
  seed_ = seed;
  image_ = std::move(image);
  engine_->reset();
  engine_->set_text(text);
  engine_->set_image(image_);
  Control control;
  control.tracks = tracks;
  control.text = std::make_shared<const std::vector<float>>(std::move(text));
  controls_.reset(std::move(control));
  applied_ = controls_.newest();
  const std::lock_guard lock(player_lock_);
  index_ = 0;
  given_ = engine_->given_frames();
  player_ = new_player();
  if (tracks) player_.set(tracks.get(), next_rgb_frame());
  started_ = true;
}

Chunk Stream::step() {
  StagedEngine& engine = open();
  require(!paused_, MS_ERROR_STATE, "the stream is paused; resume it before the next step");
  if (!started_) start({});
  Clock clock;
  const auto control = controls_.newest();
  TrackPlayer player = player_;
  apply_controls(*control, player);
  Chunk chunk;
  const ChunkPlan planned = plan(player);
  engine.begin(planned);
  chunk.times.begin_ms = clock.lap();
  for (std::size_t pass = 0; pass < engine.steps(); ++pass) engine.denoise(pass);
  chunk.times.denoise_ms = clock.lap();
  chunk.frames = engine.decode();
  chunk.times.decode_ms = clock.lap();
  engine.write_cache();  // clean pass: later chunks must not attend to noisy keys
  chunk.times.write_cache_ms = clock.lap();
  engine.commit();
  chunk.times.chunk_ms = clock.total();
  chunk.index = index_;
  chunk.first_rgb_frame = planned.first_rgb_frame;
  chunk.control_id = control->id;
  chunk.rgb_frames = static_cast<int>(rgb_frames(planned.placement.frames, planned.opening));
  const std::lock_guard lock(player_lock_);
  ++index_;
  applied_ = control;
  player_ = std::move(player);
  return chunk;
}

void Stream::apply_controls(const Control& control, TrackPlayer& player) {
  if (control.tracks_id != applied_->tracks_id) player.set(control.tracks.get(), next_rgb_frame());
  if (control.text && control.prompt_id != applied_->prompt_id) {
    engine_->set_text(*control.text);
    if (control.recache) engine_->recache(control.replace_sink);
  }
}

ChunkPlan Stream::plan(const TrackPlayer& player) const {
  const std::int64_t start = next_latent_frame();
  ChunkPlan planned;
  planned.index = index_;
  planned.opening = start == 0;
  planned.placement = config().context.place(start, chunk_frames(), engine_->sink_start());
  planned.player = config().has_track_head() ? &player : nullptr;
  planned.first_rgb_frame = next_rgb_frame();
  planned.seed = seed_;
  return planned;
}

int Stream::chunk_frames() const {
  return given_ ? config().context.chunk_frames : config().context.frames_of_chunk(index_);
}

std::int64_t Stream::next_latent_frame() const {
  return given_ ? given_ + index_ * config().context.chunk_frames : config().context.start_of_chunk(index_);
}

std::int64_t Stream::next_rgb_frame() const {
  const std::int64_t start = next_latent_frame();
  return start ? rgb_frames(start, true) : 0;
}

std::int64_t Stream::set_tracks(std::shared_ptr<const Tracks> tracks) {
  open();
  check_tracks(tracks.get());
  return controls_.set_tracks(std::move(tracks));
}

std::int64_t Stream::set_prompt(const Prompt& prompt) {
  open();
  return controls_.set_text(embed(prompt), prompt.recache, prompt.replace_sink);
}

std::vector<float> Stream::embed(const Prompt& prompt) const {
  const TextConfig& text = config().text;
  if (prompt.embedding) return padded_embedding(*prompt.embedding, prompt.embedding_tokens, text);
  if (!prompt.file.empty()) return read_embedding(prompt.file, text);
  return open().embed(prompt.text);
}

// Refuses tracks at once that the next chunk could not use.
void Stream::check_tracks(const Tracks* tracks) const {
  if (!tracks) return;
  require(config().has_track_head(), MS_ERROR_CONFIG, "the model '", config().model,
          "' has no track head; it cannot follow tracks");
  std::unique_lock lock(player_lock_);
  TrackPlayer player = player_;
  const std::int64_t at = next_rgb_frame();
  lock.unlock();
  player.set(tracks, at);
}

TrackPlayer Stream::new_player() const {
  return {{config().height, config().width}, config().fps, std::max(1, config().max_tracks)};
}

void Stream::reset() {
  open();
  const auto control = controls_.newest();
  const auto text = control->text ? *control->text : embed({});
  begin_again(image_, text, control->tracks, seed_);
}

void Stream::close() { engine_.reset(); }

}  // namespace ms_infer
