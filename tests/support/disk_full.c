/*
 * A disk that is full for as long as there is a file of the name in $DISK_FULL: what would make a file longer fails
 * with ENOSPC, and what is there already can be written over, as on a real one. Loaded into the server with LD_PRELOAD,
 * because a small file system would take a privilege to mount. Standard output and error are on another disk.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

static int no_room(int fd, off_t end)
{
    const char *flag = getenv("DISK_FULL");
    struct stat file;
    int before = errno;
    int full = fd > 2 && flag && access(flag, F_OK) == 0 && fstat(fd, &file) == 0 && S_ISREG(file.st_mode) &&
               end > file.st_size;
    errno = full ? ENOSPC : before;
    return full;
}

/* Where the next write without a position goes; nowhere in what is no file. */
static off_t here(int fd)
{
    int before = errno;
    off_t at = lseek(fd, 0, fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
    errno = before;
    return at;
}

ssize_t write(int fd, const void *data, size_t length)
{
    return no_room(fd, here(fd) + (off_t) length) ? -1 : REAL(write)(fd, data, length);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t at)
{
    return no_room(fd, at + (off_t) length) ? -1 : REAL(pwrite)(fd, data, length, at);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at)
{
    off_t end = at;
    for (int part = 0; part < count; part++) end += (off_t) parts[part].iov_len;
    return no_room(fd, end) ? -1 : REAL(pwritev)(fd, parts, count, at);
}

int posix_fallocate(int fd, off_t at, off_t length)
{
    return no_room(fd, at + length) ? ENOSPC : REAL(posix_fallocate)(fd, at, length);
}
