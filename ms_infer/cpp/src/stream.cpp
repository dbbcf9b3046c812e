#include "stream.hpp"

#include <chrono>

#include "media/picture.hpp"
#include "bundle/sha256.hpp"

namespace ms_infer {

namespace {

using Clock = std::chrono::steady_clock;

float milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<float, std::milli>(Clock::now() - start).count();
}

std::span<const std::uint8_t> pixels(const Picture& picture) {
  return picture ? std::span(*picture) : std::span<const std::uint8_t>();
}

}  // namespace

Stream::Stream(const std::shared_ptr<Model>& model, const StreamOptions& options)
    : manifest_(model->manifest()), model_(model), label_(model->label()), digest_(model->digest()), options_(options),
      ring_({config().width, config().height, options.format}, options.keep, config().most_rgb_frames()) {
  require(!options.on_device || model->engine().on_device(), MS_ERROR_CONFIG, "frames stay on the device only with the "
          "engine tensorrt; this stream runs ", label_);
  require(!options.on_device || options.format == FrameFormat::rgb24, MS_ERROR_CONFIG,
          "frames that stay on the device are RGB24; convert them there");
  engine_ = std::make_shared<StagedEngine>(model, options.on_device);
  tell_next(0, 0);
}

void Stream::tell_next(std::int64_t index, std::int64_t given) {
  next_rgb_frames_ = static_cast<int>(next_rgb_frame(index + 1, given) - next_rgb_frame(index, given));
}

std::shared_ptr<StagedEngine> Stream::open() const {
  const std::lock_guard lock(opened_);
  require(engine_ != nullptr, MS_ERROR_STATE, "the stream is closed; create a new one");
  return engine_;
}

std::shared_ptr<Model> Stream::model() const {
  const std::lock_guard lock(opened_);
  require(model_ != nullptr, MS_ERROR_STATE, "the stream is closed; create a new one");
  return model_;
}

// Lets one thread use the engine.
std::unique_lock<std::mutex> Stream::alone() {
  std::unique_lock lock(turn_, std::try_to_lock);
  require(lock.owns_lock(), MS_ERROR_STATE,
          "another thread uses this stream; step, start and save it from one thread, or create one for each");
  open()->cancel(false);
  return lock;
}

void Stream::start(const StartOptions& options) {
  const auto lock = alone();
  require(!options.image.empty() || !engine_->needs_image(), MS_ERROR_CONFIG, "the model ", config().model,
          " needs a first frame: give an image");
  const std::int64_t shift = controls_.reserve();
  Picture image;
  if (!options.image.empty())
    image = std::make_shared<const std::vector<std::uint8_t>>(
        fit_picture(options.image, options.image_size, {config().height, config().width}));
  Control control;
  control.tracks.tracks = fitted(options.tracks);
  control.prompt.text = std::make_shared<const std::vector<float>>(embed(options.prompt));
  begin(control.shifted(shift), std::move(image), options.seed);
}

// Gives up the stream that runs for another one; when what follows fails, there is none until the next start.
void Stream::give_up() {
  lost_ = lost_ || run_;
  run_.reset();
  engine_->reset();
}

void Stream::begin(const Control& control, Picture image, std::uint64_t seed) {
  give_up();
  engine_->set_text(*control.prompt.text);
  engine_->set_image(pixels(image));
  Run made{0, engine_->given_frames(), seed, std::move(image), std::make_shared<const Control>(control), new_player()};
  if (control.tracks.tracks) made.player.set(control.tracks.tracks.get(), next_rgb_frame(0, made.given));
  tell_next(0, made.given);
  run_ = std::move(made);
  lost_ = false;
  controls_.begin(control);
}

// The stream that runs; the first step starts one from nothing, below the controls that were set before.
Stream::Run& Stream::running() {
  require(!lost_, MS_ERROR_STATE, "the stream was lost when a start or a restore failed; start or restore it again");
  if (!run_) {
    Control control;
    control.prompt.text = std::make_shared<const std::vector<float>>(embed({}));
    begin(control, nullptr, 0);
  }
  return *run_;
}

Chunk Stream::step(const FrameTarget& target) {
  const auto lock = alone();
  require(!paused_, MS_ERROR_STATE, "the stream is paused; resume it before the next step");
  if (!options_.on_device) ring_.check(target);
  StagedEngine& engine = *engine_;
  Run& run = running();
  const auto began = Clock::now();
  TrackPlayer player = run.player;
  auto control = apply_controls(run, player);
  if (config().context.recompute) engine.recache(true);
  Chunk chunk;
  const ChunkPlan planned = plan(run, player);
  engine.generate(planned);
  chunk.rgb_frames = static_cast<int>(rgb_frames(planned.placement.frames, planned.opening));
  if (options_.on_device)
    chunk.device = engine.device_frames();
  else
    chunk.frames = ring_.hand_out(engine.frames(), chunk.rgb_frames, target);
  engine.commit();  // with the clean pass: later chunks must not attend to noisy keys
  ring_.advance();
  chunk.times = {engine.times(), milliseconds_since(began)};
  chunk.index = run.index;
  chunk.first_rgb_frame = planned.first_rgb_frame;
  chunk.control_id = control->id();
  ++run.index;
  tell_next(run.index, run.given);
  run.control = std::move(control);
  run.player = std::move(player);
  return chunk;
}

void Stream::cancel() { open()->cancel(true); }

void Stream::warm_up() {
  const auto lock = alone();
  if (run_ || lost_) return;
  const bool prefills = config().image_input == ImageInput::prefill;  // then an image takes other stages
  run_unseen(3, true);
  if (prefills && !engine_->needs_image()) run_unseen(1, false);
}

// Chunks that nobody sees: an opening one, one as it comes and one as engines capture it. Controls stay as they are.
void Stream::run_unseen(int chunks, bool with_image) {
  StagedEngine& engine = *engine_;
  const auto tidy = [&] {
    run_.reset();
    engine.reset();
  };
  try {
    Run run{0, 0, 0, nullptr, controls_.newest(), new_player()};
    engine.reset();
    engine.set_text(embed({}));
    const std::size_t pixels = 3 * std::size_t(config().width) * std::size_t(config().height);
    engine.set_image(with_image ? std::vector<std::uint8_t>(pixels, 128) : std::vector<std::uint8_t>());
    run.given = engine.given_frames();
    for (; run.index < chunks; ++run.index) {
      engine.generate(plan(run, run.player));
      if (!options_.on_device) engine.frames();
      engine.commit();
    }
  } catch (...) {
    tidy();
    throw;
  }
  tidy();
}

// The newest control, and `player` playing it; the current ones stay as they are.
std::shared_ptr<const Control> Stream::apply_controls(const Run& run, TrackPlayer& player) {
  const auto newest = controls_.newest();
  const bool moves = newest->tracks.id != run.control->tracks.id;
  if (moves) player.set(newest->tracks.tracks.get(), next_rgb_frame(run.index, run.given));
  const PromptControl& before = run.control->prompt;
  const bool changes = before.changes(newest->prompt);
  if (!moves && !changes) return run.control;
  const PromptControl prompt = before.followed_by(newest->prompt, text_dim());
  if (changes) engine_->set_text(*prompt.shown(text_dim()));
  if (changes && prompt.recache && !prompt.origin) engine_->recache(prompt.replace_sink);
  return std::make_shared<const Control>(Control{newest->tracks, prompt});
}

ChunkPlan Stream::plan(const Run& run, const TrackPlayer& player) const {
  const ContextConfig& context = config().context;
  const std::int64_t start = context.start_of_chunk(run.index, run.given);
  ChunkPlan planned;
  planned.index = run.index;
  planned.opening = start == 0;
  planned.placement = context.place(start, context.frames_of_chunk(run.index, run.given), engine_->sink_start());
  planned.player = config().has_track_head() ? &player : nullptr;
  planned.first_rgb_frame = next_rgb_frame(run.index, run.given);
  planned.seed = run.seed;
  return planned;
}

std::int64_t Stream::next_rgb_frame(std::int64_t index, std::int64_t given) const {
  const std::int64_t start = config().context.start_of_chunk(index, given);
  return start ? rgb_frames(start, true) : 0;
}

std::int64_t Stream::set_tracks(std::shared_ptr<const Tracks> tracks) {
  open();
  return controls_.set_tracks(fitted(std::move(tracks)));
}

std::int64_t Stream::set_prompt(const Prompt& prompt) {
  open();
  prompt.blend.check();
  return controls_.set_prompt({0, std::make_shared<const std::vector<float>>(embed(prompt)),
                               prompt.recache || prompt.replace_sink, prompt.replace_sink, prompt.blend});
}

std::vector<float> Stream::embed(const Prompt& prompt) const {
  const TextConfig& text = config().text;
  if (prompt.embedding) return padded_embedding(*prompt.embedding, prompt.embedding_tokens, text);
  if (!prompt.file.empty()) return read_embedding(prompt.file, text);
  return open()->embed(prompt.text);
}

// Tracks as the player plays them; refuses at once what the next chunk could not use.
std::shared_ptr<const Tracks> Stream::fitted(std::shared_ptr<const Tracks> tracks) const {
  if (!tracks) return nullptr;
  require(config().has_track_head(), MS_ERROR_CONFIG, "the model '", config().model,
          "' has no track head; it cannot follow tracks");
  return std::make_shared<const Tracks>(new_player().fitted(*tracks));
}

TrackPlayer Stream::new_player() const {
  return {{config().height, config().width}, config().fps, std::max(1, config().max_tracks),
          config().hides_outside};
}

void Stream::reset() {
  const auto lock = alone();
  const auto newest = controls_.newest();
  const std::int64_t shift = controls_.reserve();
  Control control;
  control.tracks.tracks = newest->tracks.tracks;
  control.prompt.text =
      newest->prompt.text ? newest->prompt.text : std::make_shared<const std::vector<float>>(embed({}));
  begin(control.shifted(shift), run_ ? run_->image : nullptr, run_ ? run_->seed : 0);
}

StreamState Stream::state() {
  const auto lock = alone();
  require(run_.has_value(), MS_ERROR_STATE, "nothing to snapshot: start or step the stream first");
  const Run& run = *run_;
  return {digest_, run.index, run.given, run.seed, *run.control, *controls_.newest(), run.image, run.player,
          engine_->state()};
}

void Stream::check(const StreamState& state) const {
  require(state.digest == digest_, MS_ERROR_CONFIG,
          "the state was made with other settings or another engine, precision or weights than this stream (", label_,
          "); open the same bundle with the same engine and precision");
  check_state(state, config());
  require(state.player.start() <= next_rgb_frame(state.index, state.given), MS_ERROR_CONFIG,
          "the state's tracks start at RGB frame ", state.player.start(), ", after its next chunk");
  fitted(state.pending.tracks.tracks);
  engine_->check_state(state.engine, config().context.start_of_chunk(state.index, state.given));
}

void Stream::load_state(const StreamState& state) {
  const auto lock = alone();
  check(state);
  const std::int64_t shift = controls_.reserve(state.applied.id(), state.pending.id());
  const Control applied = state.applied.shifted(shift);
  give_up();
  engine_->set_text(*applied.prompt.shown(text_dim()));
  engine_->set_image(pixels(state.image));
  engine_->restore(state.engine);
  run_ = Run{state.index, state.given, state.seed, state.image, std::make_shared<const Control>(applied), state.player};
  tell_next(state.index, state.given);
  lost_ = false;
  controls_.begin(state.pending.shifted(shift));
}

void Stream::restore(const std::filesystem::path& path) {
  open();
  load_state(read_snapshot(path, config()));
}

void Stream::close() {
  const std::lock_guard turn(turn_);
  std::shared_ptr<StagedEngine> closing;  // freed after the lock
  const std::lock_guard lock(opened_);
  closing.swap(engine_);
  model_.reset();
}

}  // namespace ms_infer
