/* Writes down what a process makes durable below one folder, so that a test can take away the rest after a kill, as
 * a power cut may. Loaded with LD_PRELOAD; `support/power.rs` compiles it, reads its lines and does the taking away.
 *
 *   KUMOD_POWER_ROOT   the folder, an absolute path without symbolic links
 *   KUMOD_POWER_SIDE   a folder outside of it, on the same file system: the file `lines`, and a hard link to every
 *                      file that is made, by inode number, so that no removal is ever final
 *
 * Invariants: a line is written after its call has succeeded and before the caller hears of it. A sync is said to
 * cover no more than what was there when it began: for a file its length, for a folder the lines that stood before.
 * So a kill in between makes less durable than was, never more.
 *
 * It doesn't see: calls that bypass libc, writes through mappings, O_SYNC, O_TMPFILE, link, paths that reach the folder by a
 * symbolic link or with `..`, a working folder or descriptor moved by somebody else. sync_file_range is left alone,
 * since it flushes neither metadata nor the disk's cache. Lengths are all it keeps, so files may only be appended to:
 * a write, pwrite or truncation inside of what there was is written down, for the test to judge. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *root, *side;
static size_t root_length;
static int lines = -1;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void fail(const char *what) {
  dprintf(2, "durable.so: %s: %s; this run can't be judged, so it ends\n", what, strerror(errno));
  _exit(99);
}

__attribute__((constructor)) static void start(void) {
  static char path[PATH_MAX];
  root = getenv("KUMOD_POWER_ROOT");
  side = getenv("KUMOD_POWER_SIDE");
  if (!root || !side) return;
  root_length = strlen(root);
  snprintf(path, sizeof path, "%s/lines", side);
  lines = REAL(open)(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (lines < 0) fail(path);
}

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...) {
  char line[2 * NAME_MAX + 128];
  int saved = errno, length;
  va_list arguments;
  va_start(arguments, format);
  length = vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (length >= (int)sizeof line || REAL(write)(lines, line, length) != length) fail("writing a line");
  errno = saved;
}

/* ---- Where is it? ---- */

struct place {
  ino_t folder;
  char path[PATH_MAX];
  const char *name;
};

static int absolute(int folder, const char *path, char *result) {
  char link[64];
  ssize_t length = 0;
  if (path[0] != '/') {
    snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
    length = readlink(link, result, PATH_MAX - 1);
    if (length <= 0) return 0;
    result[length++] = '/';
  }
  return snprintf(result + length, PATH_MAX - length, "%s", path) < PATH_MAX - length;
}

/* Whether a path lies below the root; if so, its folder and its name there. */
static int below(int folder, const char *path, struct place *place) {
  struct stat parent;
  char *slash;
  int saved = errno, found = 0;
  if (lines >= 0 && absolute(folder, path, place->path) && strncmp(place->path, root, root_length) == 0 &&
      place->path[root_length] == '/') {
    slash = strrchr(place->path, '/');
    place->name = slash + 1;
    *slash = 0;
    found = *place->name && stat(place->path, &parent) == 0;
    *slash = '/';
    place->folder = parent.st_ino;
  }
  errno = saved;
  return found;
}

/* 0 if there is nothing. */
static ino_t inode(const char *path) {
  struct stat state;
  int saved = errno;
  ino_t number = lstat(path, &state) == 0 ? state.st_ino : 0;
  errno = saved;
  return number;
}

/* ---- What is made ---- */

static void keep(const struct place *place, ino_t number) {
  char copy[PATH_MAX];
  int saved = errno;
  snprintf(copy, sizeof copy, "%s/%lu", side, number);
  if (link(place->path, copy) && errno != EEXIST) fail(copy);
  errno = saved;
}

static void made_file(const struct place *place) {
  ino_t number = inode(place->path);
  keep(place, number);
  say("file %lu %lu %s\n", number, place->folder, place->name);
}

typedef int (*opener)(int, const char *, int, mode_t);

/* With O_EXCL first: that it succeeds is the only proof that the file is new. */
static int open_below(opener real, int folder, const char *path, int flags, mode_t mode, struct place *place) {
  int fd = -1;
  if (flags & O_CREAT) {
    fd = real(folder, path, flags | O_EXCL, mode);
    if (fd >= 0) made_file(place);
    if (fd >= 0 || errno != EEXIST || flags & O_EXCL) return fd;
  }
  fd = real(folder, path, flags, mode);
  if (fd >= 0 && flags & O_TRUNC) say("shortened %lu 0\n", inode(place->path));
  return fd;
}

static int real_openat(int folder, const char *path, int flags, mode_t mode) {
  return REAL(openat)(folder, path, flags, mode);
}

static int any_open(int folder, const char *path, int flags, mode_t mode) {
  struct place place;
  if (flags & (O_CREAT | O_TRUNC) && below(folder, path, &place))
    return open_below(real_openat, folder, path, flags, mode, &place);
  return real_openat(folder, path, flags, mode);
}

#define OPEN(name, folder, ...)                        \
  int name(__VA_ARGS__, int flags, ...) {              \
    va_list rest;                                      \
    mode_t mode;                                       \
    va_start(rest, flags);                             \
    mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
    va_end(rest);                                      \
    return any_open(folder, path, flags, mode);        \
  }
OPEN(open, AT_FDCWD, const char *path)
OPEN(open64, AT_FDCWD, const char *path)
OPEN(openat, folder, int folder, const char *path)
OPEN(openat64, folder, int folder, const char *path)

FILE *fopen(const char *path, const char *mode) {
  struct place place;
  ino_t before = 0;
  int writes = mode[0] != 'r' && below(AT_FDCWD, path, &place);
  FILE *file;
  if (writes) before = inode(path);
  file = REAL(fopen)(path, mode);
  if (file && writes && !before) made_file(&place);
  if (file && before && mode[0] == 'w') say("shortened %lu 0\n", before);
  return file;
}

FILE *fopen64(const char *path, const char *mode) { return fopen(path, mode); }

int mkdirat(int folder, const char *path, mode_t mode) {
  struct place place;
  int result = REAL(mkdirat)(folder, path, mode);
  if (result == 0 && below(folder, path, &place))
    say("folder %lu %lu %s\n", inode(place.path), place.folder, place.name);
  return result;
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* ---- What is removed and renamed ---- */

int unlinkat(int folder, const char *path, int flags) {
  struct place place;
  int is_below = below(folder, path, &place);
  int result = REAL(unlinkat)(folder, path, flags);
  if (result == 0 && is_below) say("gone %lu %s\n", place.folder, place.name);
  return result;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

/* A file that comes from outside has no link yet; one that goes outside is lost to the test, which says so. */
static void moved(int was_below, const struct place *from, int is_below, const struct place *to) {
  ino_t number = is_below ? inode(to->path) : 0;
  if (was_below && is_below)
    say("moved %lu %lu %lu %s/%s\n", from->folder, to->folder, number, from->name, to->name);
  else if (is_below)
    made_file(to);
  else if (was_below)
    say("gone %lu %s\n", from->folder, from->name);
}

int renameat2(int folder, const char *from, int into, const char *to, unsigned flags) {
  struct place before, after;
  int was_below = below(folder, from, &before), is_below = below(into, to, &after);
  int result = REAL(renameat2)(folder, from, into, to, flags);
  if (result == 0) moved(was_below, &before, is_below, &after);
  return result;
}

int renameat(int folder, const char *from, int into, const char *to) { return renameat2(folder, from, into, to, 0); }
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

/* ---- What is synced ---- */

static off_t said_so_far(void) {
  struct stat state;
  if (fstat(lines, &state)) fail("looking at the lines");
  return state.st_size;
}

static int any_sync(int (*real)(int), int fd) {
  struct stat state;
  off_t before;
  int result;
  if (lines < 0 || fstat(fd, &state)) return real(fd);
  before = S_ISDIR(state.st_mode) ? said_so_far() : state.st_size;
  result = real(fd);
  if (result == 0 && (S_ISDIR(state.st_mode) || S_ISREG(state.st_mode)))
    say("%s %lu %ld\n", S_ISDIR(state.st_mode) ? "settled" : "synced", state.st_ino, before);
  return result;
}

int fsync(int fd) { return any_sync(REAL(fsync), fd); }
int fdatasync(int fd) { return any_sync(REAL(fdatasync), fd); }

/* ---- What isn't appended ---- */

static void check_end(int fd, off_t at, const char *what) {
  struct stat state;
  int saved = errno;
  if (lines >= 0 && fstat(fd, &state) == 0 && S_ISREG(state.st_mode) && at < state.st_size)
    say("%s %lu %ld\n", what, state.st_ino, at);
  errno = saved;
}

int ftruncate64(int fd, off64_t length) {
  check_end(fd, length, "shortened");
  return REAL(ftruncate64)(fd, length);
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int truncate64(const char *path, off64_t length) {
  struct place place;
  if (below(AT_FDCWD, path, &place)) say("shortened %lu %ld\n", inode(place.path), length);
  return REAL(truncate64)(path, length);
}

int truncate(const char *path, off_t length) { return truncate64(path, length); }

ssize_t write(int fd, const void *octets, size_t count) {
  int saved = errno;
  off_t at = lines >= 0 ? lseek(fd, 0, SEEK_CUR) : -1;
  errno = saved;
  if (at >= 0 && !(fcntl(fd, F_GETFL) & O_APPEND)) check_end(fd, at, "overwritten");
  return REAL(write)(fd, octets, count);
}

ssize_t pwrite64(int fd, const void *octets, size_t count, off64_t at) {
  check_end(fd, at, "overwritten");
  return REAL(pwrite64)(fd, octets, count, at);
}

ssize_t pwrite(int fd, const void *octets, size_t count, off_t at) { return pwrite64(fd, octets, count, at); }
