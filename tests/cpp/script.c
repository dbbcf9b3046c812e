/* Plays tests/cpp/gestures.txt through the C interface and writes the frames: script_c BUNDLE SCRIPT FILE.rgb */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ms_infer/ms_infer.h"

typedef struct player {
    ms_stream *stream;
    ms_tracks *tracks;
    ms_hand *hand;
    FILE *out;
} player;

/* The tracks that a call made take the place of those before. */
static ms_status replace(player *p, ms_status status, ms_tracks *made) {
    ms_tracks_destroy(p->tracks);
    p->tracks = made;
    return status;
}

static ms_status step(player *p) {
    ms_chunk chunk = {.struct_size = sizeof chunk};
    const ms_status status = ms_stream_step(p->stream, &chunk);
    if (status == MS_OK) fwrite(chunk.frames, chunk.frame_stride, (size_t)chunk.rgb_frames, p->out);
    return status;
}

static ms_status live(player *p, double now) {
    ms_stream_info info = {.struct_size = sizeof info};
    ms_tracks *made = NULL;
    ms_status status = ms_stream_get_info(p->stream, &info);
    if (status == MS_OK) status = ms_hand_tracks(p->hand, now, info.next_rgb_frames, &made);
    if (status == MS_OK) status = ms_stream_set_tracks(p->stream, made, NULL);
    ms_tracks_destroy(made);
    return status;
}

static ms_status move_camera(player *p, const double *n) {
    ms_camera camera = {.struct_size = sizeof camera, .pan_x = n[0], .pan_y = n[1], .zoom = n[2], .roll = n[3],
                        .aspect = n[4], .dolly = n[5], .seconds = n[6], .start = n[7]};
    ms_tracks *made = NULL;
    const ms_status status = ms_tracks_camera(p->tracks, &camera, &made);
    return replace(p, status, made);
}

static ms_status play_tracks(player *p, const char *word, const double *n, int count) {
    ms_tracks *made = NULL;
    ms_status status = MS_ERROR_CONFIG;
    if (!strcmp(word, "grid")) status = ms_tracks_grid((int32_t)n[0], (int32_t)n[1], 0, 0, 16, &made);
    if (!strcmp(word, "grab"))
        status = ms_tracks_grab(p->tracks, n[0], n[1], n[2], n[3], n[4], n[5], n[6], &made);
    if (!strcmp(word, "static")) status = ms_tracks_static(p->tracks, n, count / 2, &made);
    if (!strcmp(word, "resample")) status = ms_tracks_resample(p->tracks, n[0], &made);
    if (!strcmp(word, "path"))
        status = ms_tracks_path(p->tracks, n + 4, (count - 4) / 2, n[0], n[1], n[2], (int32_t)n[3], &made);
    return replace(p, status, made);
}

static ms_status play(player *p, const char *word, const double *n, int count) {
    if (!strcmp(word, "step")) return step(p);
    if (!strcmp(word, "set")) return ms_stream_set_tracks(p->stream, p->tracks, NULL);
    if (!strcmp(word, "camera")) return move_camera(p, n);
    if (!strcmp(word, "live")) return live(p, n[0]);
    if (!strcmp(word, "hand")) return ms_hand_create((int32_t)n[0], (int32_t)n[1], n[2], n[3], (int32_t)n[4], &p->hand);
    if (!strcmp(word, "press")) return ms_hand_press(p->hand, (int64_t)n[0], n[1], n[2], n[3], n[4], NULL, 0);
    if (!strcmp(word, "move")) return ms_hand_move(p->hand, (int64_t)n[0], n[1], n[2], n[3]);
    if (!strcmp(word, "release")) return ms_hand_release(p->hand, (int64_t)n[0]);
    if (!strcmp(word, "static_points")) return ms_hand_static(p->hand, n, count / 2);
    if (!strcmp(word, "brush")) return ms_hand_brush(p->hand, n, count / 2);
    if (!strcmp(word, "steer")) return ms_hand_steer(p->hand, n[0], n[1], n[2], n[3]);
    if (!strcmp(word, "carry")) return ms_hand_carry(p->hand, n[0], n[1], n[2], n[3]);
    return play_tracks(p, word, n, count);
}

int main(int count, char **arguments) {
    ms_model_params params = {.struct_size = sizeof params, .engine = "openvino", .precision = "fp32"};
    player p = {NULL, NULL, NULL, NULL};
    char line[512];
    FILE *script = count == 4 ? fopen(arguments[2], "r") : NULL;
    if (!script || !(p.out = fopen(arguments[3], "wb"))) return 2;
    params.bundle = arguments[1];
    if (ms_stream_open(&params, NULL, &p.stream) != MS_OK) return puts(ms_last_error()), 1;
    while (fgets(line, sizeof line, script)) {
        double numbers[32];
        int found = 0;
        char *word = strtok(line, " \n"), *next;
        while ((next = strtok(NULL, " \n")) && found < 32) numbers[found++] = atof(next);
        if (play(&p, word, numbers, found) != MS_OK) return printf("%s: %s\n", word, ms_last_error()), 1;
    }
    fclose(script), fclose(p.out);
    ms_hand_destroy(p.hand), ms_tracks_destroy(p.tracks), ms_stream_destroy(p.stream);
    return 0;
}
