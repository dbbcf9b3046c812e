/* ms_infer: stream motion-controlled video from a bundle, without Python. Plain C; see ms_infer.hpp for C++.
 *
 * Use
 *     ms_model_params params = {.struct_size = sizeof params, .bundle = "bundles/demo"};
 *     ms_model *model; ms_stream *stream; ms_tracks *grid, *moved;
 *     if (ms_model_open(&params, &model) || ms_stream_create(model, NULL, &stream)) return puts(ms_last_error());
 *     ms_tracks_grid(10, 10, 0, 0, 16, &grid);
 *     ms_tracks_grab(grid, 0.4, 0.5, 0.6, 0.4, 1.0, 0.15, 0.0, &moved);
 *     ms_stream_set_tracks(stream, moved, NULL);
 *     ms_chunk chunk = {.struct_size = sizeof chunk};
 *     while (ms_stream_step(stream, &chunk) == MS_OK) show(chunk.frames, chunk.rgb_frames);
 *
 * Ownership and growth
 *     What comes out through a pointer to a handle is the caller's: free it with the matching *_destroy, a model with
 *     ms_model_close, in any order; NULL is fine. Inputs are copied before a function returns. Structs begin with their
 *     size: fields that are 0 or NULL, or that an older header does not know, have their defaults, so a program that was
 *     built with an older header of the same MS_VERSION_MAJOR keeps working.
 *
 * Errors and threads
 *     Every function that can fail returns a status; ms_last_error() has the words, until the next one that fails in
 *     this thread. A failed step changes nothing: it may be called again. Any thread may set tracks and prompts,
 *     cancel, pause and resume while another steps or starts the stream, and use a hand; a second one that steps,
 *     starts, saves or restores meanwhile gets MS_ERROR_STATE. Control ids only grow, over starts and restores too.
 *     Close waits for the chunk that is being made; destroy comes last. Streams of one model are independent, too.
 */
#ifndef MS_INFER_H
#define MS_INFER_H
#include <stddef.h>
#include <stdint.h>
#define MS_VERSION_MAJOR 0
#define MS_VERSION_MINOR 1
#define MS_VERSION_PATCH 0
#if !defined(_WIN32)
#  define MS_API __attribute__((visibility("default")))
#elif defined(MS_INFER_BUILD)
#  define MS_API __declspec(dllexport)
#else
#  define MS_API __declspec(dllimport)
#endif
#ifdef __cplusplus
extern "C" {
#endif
typedef enum ms_status {
    MS_OK = 0,
    MS_ERROR_CONFIG = 1,    /* a setting or an input that cannot work, also NULL and a wrong struct_size */
    MS_ERROR_BUNDLE = 2,    /* a bundle that is incomplete, changed after the export, or too new */
    MS_ERROR_ENGINE = 3,    /* the bundle's engine was built for another device, version or precision */
    MS_ERROR_MISSING = 4,   /* a library that the engine needs is not found */
    MS_ERROR_DEVICE = 5,    /* the device is absent or failed */
    MS_ERROR_STATE = 6,     /* not now: the stream is closed, paused, not started, or another thread uses it */
    MS_ERROR_MEMORY = 7,    /* out of memory */
    MS_ERROR_INTERNAL = 8,  /* a defect of this library or of an engine's; please report it */
    MS_ERROR_CANCELLED = 9  /* the caller asked for it */
} ms_status;

typedef struct ms_model ms_model;   /* a bundle that is open: weights and compiled stages, for any number of streams */
typedef struct ms_stream ms_stream; /* a video that goes on for ever */
typedef struct ms_state ms_state;   /* a stream between two chunks */
typedef struct ms_tracks ms_tracks; /* immutable points over time: the motion control */
typedef struct ms_hand ms_hand;     /* what a user does with the picture while a stream runs, as tracks */

MS_API const char *ms_version(void); /* of the library, "0.1.0"; MS_VERSION_MAJOR, ... are those of this header */
/* Name of a status, "ok", "config", ...; words for the newest error of this thread, "" before the first. */
MS_API const char *ms_status_name(ms_status status);
MS_API const char *ms_last_error(void);
/* Hear what the library does: level 0 details, 1 events, 2 warnings; from any thread. NULL: nobody listens. */
MS_API void ms_set_log(void (*log)(void *user, int level, const char *words), void *user);
/* Engines by number, the fastest first, NULL after the last; and what keeps one from running here, by name. */
MS_API const char *ms_engine_name(int32_t number);
MS_API ms_status ms_engine_check(const char *engine);

/* ---- model */
typedef struct ms_model_params {
    size_t struct_size;
    const char *bundle;    /* folder that ms-export made; required */
    const char *engine;    /* NULL: "auto"; "openvino" or "tensorrt" never fall back */
    const char *precision; /* NULL: the best of the device; "fp32" or "bf16" with OpenVINO */
    int32_t threads;       /* CPU threads, 0: all that this process may use */
    int32_t device;        /* number of the CUDA device */
    int (*progress)(void *user, const char *what, double done); /* told each part and 0..1; not 0: cancel the load */
    void *user;            /* for `progress` */
} ms_model_params;
/* Open a bundle: check its files, load and compile its stages, once for all streams. */
MS_API ms_status ms_model_open(const ms_model_params *params, ms_model **model);
MS_API void ms_model_close(ms_model *model); /* streams keep what they need */

/* ---- stream */
/* Rows of R G B; of B G R 255; or of Y, then half as many of Cb Cr (BT.601, limited range). */
typedef enum ms_format { MS_RGB24 = 0, MS_BGRA = 1, MS_NV12 = 2 } ms_format;
typedef struct ms_stream_params {
    size_t struct_size;
    int32_t format;    /* an ms_format */
    int32_t keep;      /* chunks whose frames stay valid, the newest included; 0: 3; 1 saves a copy where it can */
    int32_t on_device; /* not 0: RGB24 frames stay on the CUDA device until the next step, nothing is downloaded */
} ms_stream_params;

typedef struct ms_stream_info {
    size_t struct_size;
    const char *model, *engine; /* names, "openvino fp32"; they live as long as the stream */
    double fps;         /* playback rate of the RGB frames */
    int32_t width, height;
    int32_t first_rgb_frames, rgb_frames; /* RGB frames of the first chunk, and of every later one */
    int32_t max_tracks;                   /* 0: the model has no track head */
    int32_t text_tokens, text_dim;        /* shape of a prompt's embedding */
    int32_t next_rgb_frames;              /* of the chunk that comes next */
    int64_t chunk_bytes;                  /* of the largest chunk in the stream's format, rows without gaps */
} ms_stream_info;

/* What the video shall show: words, or a ready embedding from memory or from a file. The first that is set counts. */
typedef struct ms_prompt {
    size_t struct_size;
    const float *embedding; /* [embedding_tokens, text_dim], embedding_tokens <= text_tokens */
    int32_t embedding_tokens;
    int32_t recache;            /* not 0: also re-encode the context, so that it lets go of the old prompt at once */
    int32_t replace_sink;       /* not 0: and let the oldest re-encoded latent frames become the new sink */
    const char *embedding_file; /* .npy of floats [tokens, text_dim] */
    const char *text;           /* UTF-8; needs a model with a word-level text encoder, as the demo has */
    int32_t over;  /* a change only: chunks until the prompt is all there, 0: 1; the k-th has k / over of it */
    int32_t slerp; /* not 0: every row of the embedding turns on the way; else the numbers in between */
} ms_prompt;

typedef struct ms_start_params {
    size_t struct_size;
    const uint8_t *image; /* RGB [image_height, image_width, 3] or NULL; cropped and resized where it does not fit */
    int32_t image_width, image_height;
    const ms_prompt *prompt; /* NULL: no words */
    const ms_tracks *tracks; /* NULL: no tracks */
    uint64_t seed;           /* equal seeds and controls give equal frames */
} ms_start_params;

typedef struct ms_chunk {
    size_t struct_size;
    int64_t index;           /* counts chunks from 0 */
    int64_t first_rgb_frame; /* place of the first frame in the stream */
    int64_t control_id;      /* newest control that the chunk was made with */
    const uint8_t *frames;   /* rgb_frames frames in the stream's format; NULL when they stay on the device */
    int32_t rgb_frames, height, width;
    float begin_ms, denoise_ms, decode_ms, write_cache_ms; /* by the clock of the device that ran them */
    float chunk_ms;                                        /* the whole step by the host's clock */
    uint8_t *buffer;           /* in: the caller's memory for the frames, or NULL */
    size_t buffer_bytes;       /* in: its size; chunk_bytes of the info is enough for rows without gaps */
    size_t row_stride;         /* bytes from row to row; in, with a buffer: what the caller wants, 0: no gaps */
    size_t frame_stride;       /* bytes from frame to frame */
    const void *device_frames; /* on_device: RGB [rgb_frames, height, width, 3] in CUDA memory, until the next step */
    void *device_event;        /* cudaEvent_t that their reader waits for */
} ms_chunk;

/* A stream of a model; NULL params: the defaults. `ms_stream_open` does both in one, for a program with one stream. */
MS_API ms_status ms_stream_create(ms_model *model, const ms_stream_params *params, ms_stream **stream);
MS_API ms_status ms_stream_open(const ms_model_params *model, const ms_stream_params *params, ms_stream **stream);
/* Free what the stream holds; the handle stays valid and refuses every later call. */
MS_API ms_status ms_stream_close(ms_stream *stream);
MS_API void ms_stream_destroy(ms_stream *stream);
MS_API ms_status ms_stream_get_info(const ms_stream *stream, ms_stream_info *info);
/* Run every stage once, so that the first chunks take no longer than later ones; nothing after a start or a step. */
MS_API ms_status ms_stream_warm_up(ms_stream *stream);
/* Begin a new video; NULL: from nothing, as the first step does by itself. */
MS_API ms_status ms_stream_start(ms_stream *stream, const ms_start_params *params);
MS_API ms_status ms_stream_step(ms_stream *stream, ms_chunk *chunk); /* the next chunk, with the newest control */
/* End the step, start or warm-up that another thread is in: it changes nothing and returns MS_ERROR_CANCELLED. */
MS_API ms_status ms_stream_cancel(ms_stream *stream);
/* Follow tracks from the next chunk on, whose first frame is their frame 0; NULL releases all points. Or change the
 * prompt. `control_id` may be NULL. */
MS_API ms_status ms_stream_set_tracks(ms_stream *stream, const ms_tracks *tracks, int64_t *control_id);
MS_API ms_status ms_stream_set_prompt(ms_stream *stream, const ms_prompt *prompt, int64_t *control_id);
MS_API ms_status ms_stream_pause(ms_stream *stream); /* a step is MS_ERROR_STATE then; controls may still be set */
MS_API ms_status ms_stream_resume(ms_stream *stream);
/* Start over with the same image, prompt, tracks and seed; after a load with those of the state. */
MS_API ms_status ms_stream_reset(ms_stream *stream);
/* Everything the next chunk depends on, controls that no chunk has played yet included: load it often, and into other
 * streams of the same bundle, engine and precision, for frames that are equal bit for bit; one that is refused changes
 * nothing. In memory, in a file (as Python's Stream.snapshot), or as a new stream of the same model: a fork. */
MS_API ms_status ms_stream_save(ms_stream *stream, ms_state **state);
MS_API ms_status ms_stream_load(ms_stream *stream, const ms_state *state);
MS_API ms_status ms_stream_fork(ms_stream *stream, ms_stream **fork);
MS_API ms_status ms_stream_snapshot(ms_stream *stream, const char *path);
MS_API ms_status ms_stream_restore(ms_stream *stream, const char *path);
MS_API void ms_state_destroy(ms_state *state);

/* ---- tracks: x to the right, y down; in pixels of a width x height picture, or in 0..1 when both are 0 */
/* points [count, frames, 2] x, y; visible [count, frames] 0 or 1, NULL: all; ids [count] unique and >= 0, NULL: 0... */
MS_API ms_status ms_tracks_create(const float *points, const uint8_t *visible, const int64_t *ids, int32_t count,
                                  int32_t frames, int32_t width, int32_t height, double fps, ms_tracks **tracks);
/* rows x cols points at the centres of equal cells, row by row, standing still. */
MS_API ms_status ms_tracks_grid(int32_t rows, int32_t cols, int32_t width, int32_t height, double fps, ms_tracks **out);
/* Move all within `radius` of (x, y) as one stiff thing, eased, from `start` seconds on, and hold it there; points that
 * it covers, and those of its rim, say nothing. The way to move a thing. */
MS_API ms_status ms_tracks_grab(const ms_tracks *tracks, double x, double y, double to_x, double to_y, double seconds,
                                double radius, double start, ms_tracks **moved);
/* Move the visible point nearest to the first of the corners [count, 2] along the others; with a radius > 0 every
 * visible point within it, with cosine falloff: the surface bends. smooth not 0: eased at both ends. */
MS_API ms_status ms_tracks_path(const ms_tracks *tracks, const double *corners, int32_t count, double seconds,
                                double radius, double start, int32_t smooth, ms_tracks **moved);

typedef struct ms_camera {
    size_t struct_size;
    double pan_x, pan_y;   /* the content moves by so much, in the units of the coordinates */
    double zoom;           /* factor by which the content grows; 0: 1 */
    double roll, aspect;   /* degrees clockwise; width / height, needed for a roll with 0..1 coordinates */
    double dolly;          /* forward, in the unit of the depth */
    double seconds, start; /* 0 seconds: 1 */
    int32_t linear;        /* not 0: at constant speed; else eased at both ends */
    int32_t depth_height, depth_width;
    const float *depth;    /* [depth_height, depth_width] positive distances over the picture, NULL: 1 everywhere */
} ms_camera;
/* Move every point as a moving camera would, about the centre of the picture, and hold it there. */
MS_API ms_status ms_tracks_camera(const ms_tracks *tracks, const ms_camera *camera, ms_tracks **moved);
/* Add points [count, 2] that must not move; or other tracks, in these units and fps, with new ids where some clash. */
MS_API ms_status ms_tracks_static(const ms_tracks *tracks, const double *points, int32_t count, ms_tracks **all);
MS_API ms_status ms_tracks_merge(const ms_tracks *tracks, const ms_tracks *other, ms_tracks **all);
/* Those with these ids, in this order; NULL: those that are visible at some time. */
MS_API ms_status ms_tracks_select(const ms_tracks *tracks, const int64_t *ids, int32_t count, ms_tracks **selected);
/* Another frame rate, nothing of the motion lost; or so many frames at this rate: faster or slower. */
MS_API ms_status ms_tracks_resample(const ms_tracks *tracks, double fps, ms_tracks **resampled);
MS_API ms_status ms_tracks_stretch(const ms_tracks *tracks, int32_t frames, ms_tracks **stretched);
/* .npz and .json, as Python's Tracks.save writes them; size and fps (0: 16) speak for what a file does not say. */
MS_API ms_status ms_tracks_load(const char *path, int32_t width, int32_t height, double fps, ms_tracks **tracks);
MS_API ms_status ms_tracks_save(const ms_tracks *tracks, const char *path);
/* Number of tracks and of RGB frames; a copy of what ms_tracks_create takes, each of the arrays may be NULL. */
MS_API ms_status ms_tracks_size(const ms_tracks *tracks, int32_t *count, int32_t *frames);
MS_API ms_status ms_tracks_read(const ms_tracks *tracks, float *points, uint8_t *visible, int64_t *ids);
MS_API void ms_tracks_destroy(ms_tracks *tracks);

/* ---- hand: positions in 0..1 of the picture, reaches in picture heights, times in seconds on any clock */
/* rows x cols points rest on the picture and say what stays. aspect: width / height; fps: of the video; capacity: most
 * points, no more than the model's max_tracks. Options not 0, as at first: resting and released points stay. */
MS_API ms_status ms_hand_create(int32_t rows, int32_t cols, double aspect, double fps, int32_t capacity, ms_hand **out);
MS_API ms_status ms_hand_options(ms_hand *hand, int32_t hold_rest, int32_t hold_released);
MS_API void ms_hand_destroy(ms_hand *hand);
/* A pointer of any number takes along what is near, or a thing upon which points [count, 2] lie (else NULL, 0), moves
 * it and lets go of it; INT64_MIN: every pointer does. */
MS_API ms_status ms_hand_press(ms_hand *hand, int64_t pointer, double x, double y, double at, double reach,
                               const double *thing, int32_t count);
MS_API ms_status ms_hand_move(ms_hand *hand, int64_t pointer, double x, double y, double at);
MS_API ms_status ms_hand_release(ms_hand *hand, int64_t pointer);
/* Add points [count, 2] that stay, or move together; take such away; move what is near the first, or a thing, along. */
MS_API ms_status ms_hand_static(ms_hand *hand, const double *points, int32_t count);
MS_API ms_status ms_hand_brush(ms_hand *hand, const double *points, int32_t count);
MS_API ms_status ms_hand_remove(ms_hand *hand, const double *points, int32_t count);
MS_API ms_status ms_hand_path(ms_hand *hand, const double *points, int32_t count, double seconds, double reach,
                              const double *thing, int32_t thing_count);
/* The camera's speed from now on, -1..1 to the right, down, in, clockwise; or a way: pictures, e-folds, radians. */
MS_API ms_status ms_hand_steer(ms_hand *hand, double x, double y, double zoom, double roll);
MS_API ms_status ms_hand_carry(ms_hand *hand, double x, double y, double zoom, double roll);
/* Start over, with this grid, or with tracks that are played in its place (NULL: the grid), once or for ever. */
MS_API ms_status ms_hand_grid(ms_hand *hand, int32_t rows, int32_t cols);
MS_API ms_status ms_hand_play(ms_hand *hand, const ms_tracks *tracks, int32_t loop);
/* Push the grid's points by movement [rows, cols, 2] of the picture's cells until the next chunk; NULL: no more. */
MS_API ms_status ms_hand_push(ms_hand *hand, const double *movement, int32_t rows, int32_t cols);
/* The tracks of the next chunk: give them to ms_stream_set_tracks; frames: next_rgb_frames of the stream's info. */
MS_API ms_status ms_hand_tracks(ms_hand *hand, double now, int32_t frames, ms_tracks **tracks);
/* All that later tracks depend on, as safetensors of Python's Hand.state; `size`: the room in `bytes`, then what it
 * takes (bytes NULL: nothing is written). A hand of these options goes on from it as if it had been saved at `now`. */
MS_API ms_status ms_hand_save(const ms_hand *hand, double now, void *bytes, size_t *size);
MS_API ms_status ms_hand_load(ms_hand *hand, double now, const void *bytes, size_t size);
#ifdef __cplusplus
}
#endif
#endif
