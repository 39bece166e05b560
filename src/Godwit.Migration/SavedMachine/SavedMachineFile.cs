using System.Runtime.InteropServices;
using Godwit.Interop.Linux;
using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>The file of a saved machine: reads and writes at offsets, whole or with an error.</summary>
internal sealed unsafe class SavedMachineFile : IDisposable
{
    private static readonly byte[] Zeros = new byte[64 * RamPage.Size];

    private readonly string _path;

    private SavedMachineFile(string path, FileDescriptor descriptor)
    {
        _path = path;
        Descriptor = descriptor;
    }

    /// <summary>The open file.</summary>
    internal FileDescriptor Descriptor { get; }

    /// <summary>Creates it; only its owner may read it, since it holds a guest's memory.</summary>
    /// <exception cref="LinuxException">It exists, or cannot be created.</exception>
    internal static SavedMachineFile Create(string path) =>
        Open(path, fcntl.O_RDWR | fcntl.O_CREAT | fcntl.O_EXCL | fcntl.O_CLOEXEC);

    /// <summary>Opens it for reading.</summary>
    /// <exception cref="LinuxException">It cannot be opened.</exception>
    internal static SavedMachineFile OpenToRead(string path) => Open(path, fcntl.O_RDONLY | fcntl.O_CLOEXEC);

    /// <summary>Writes all of <paramref name="bytes"/> at <paramref name="offset"/>.</summary>
    /// <exception cref="LinuxException">The disk is full, say.</exception>
    internal void Write(ulong offset, ReadOnlySpan<byte> bytes)
    {
        fixed (byte* pointer = bytes)
        {
            for (int done = 0; done < bytes.Length;)
            {
                // SAFETY: pinned, and no more than the rest is written.
                nint written = unistd.pwrite(Descriptor, pointer + done, (nuint)(bytes.Length - done), (long)offset + done);
                if (written < 0 && !Again())
                    LinuxException.ThrowLast("pwrite", _path);
                done += (int)Math.Max(0, written);
            }
        }
    }

    /// <summary>Fills <paramref name="bytes"/> from <paramref name="offset"/>.</summary>
    /// <exception cref="IOException">The file is shorter, or cannot be read.</exception>
    internal void Read(ulong offset, Span<byte> bytes)
    {
        int read = ReadSome(offset, bytes);
        if (read < bytes.Length)
            throw new IOException($"{_path} ends {bytes.Length - read} bytes too early: its {bytes.Length} bytes at {offset} are not all there");
    }

    /// <summary>As <see cref="Read"/>, but fewer at the end of the file.</summary>
    internal int ReadSome(ulong offset, Span<byte> bytes)
    {
        int done = 0;
        fixed (byte* pointer = bytes)
        {
            while (done < bytes.Length)
            {
                // SAFETY: pinned, and no more than the rest is read.
                nint read = unistd.pread(Descriptor, pointer + done, (nuint)(bytes.Length - done), (long)offset + done);
                if (read < 0 && !Again())
                    LinuxException.ThrowLast("pread", _path);
                if (read == 0)
                    break;
                done += (int)Math.Max(0, read);
            }
        }

        return done;
    }

    /// <summary>Makes a hole, or writes zeros where the file system has none.</summary>
    internal void Clear(ulong offset, ulong length)
    {
        if (fcntl.fallocate(Descriptor, fcntl.FALLOC_FL_PUNCH_HOLE | fcntl.FALLOC_FL_KEEP_SIZE, (long)offset, (long)length) == 0)
            return;
        if ((Errno)Marshal.GetLastPInvokeError() is not (Errno.ENOTSUP or Errno.ENOSYS))
            LinuxException.ThrowLast("fallocate", _path);
        for (ulong done = 0; done < length;)
        {
            int piece = (int)Math.Min((ulong)Zeros.Length, length - done);
            Write(offset + done, Zeros.AsSpan(0, piece));
            done += (ulong)piece;
        }
    }

    /// <summary>The first offset from <paramref name="offset"/> on, below <paramref name="end"/>, that is (or is not) in a hole.</summary>
    internal ulong Next(ulong offset, ulong end, bool data)
    {
        long found = unistd.lseek(Descriptor, (long)offset, data ? unistd.SEEK_DATA : unistd.SEEK_HOLE);
        if (found >= 0)
            return Math.Clamp((ulong)found, offset, end);
        // ENXIO: no data from here on. Any other answer: a file system without the feature, where all of it counts as data.
        return data && (Errno)Marshal.GetLastPInvokeError() != Errno.ENXIO ? offset : end;
    }

    /// <summary>Returns when what was written is on the disk.</summary>
    internal void Flush() => Flush(Descriptor, _path);

    /// <summary>Gives the complete file its name, for good. Nothing at <paramref name="path"/> is replaced.</summary>
    internal void MoveTo(string path)
    {
        File.Move(_path, path, overwrite: false);
        string directory = Path.GetDirectoryName(Path.GetFullPath(path))!;
        using SavedMachineFile folder = OpenToRead(directory);
        Flush(folder.Descriptor, directory);
    }

    /// <inheritdoc/>
    public void Dispose() => Descriptor.Dispose();

    private static SavedMachineFile Open(string path, int flags)
    {
        const uint OwnerOnly = 0x180; // 0600
        int number = fcntl.open(path, flags, OwnerOnly);
        if (number < 0)
            LinuxException.ThrowLast("open", path);
        return new SavedMachineFile(path, FileDescriptor.Adopt(number));
    }

    private static void Flush(FileDescriptor descriptor, string path)
    {
        while (fcntl.fdatasync(descriptor) != 0)
        {
            if (!Again())
                LinuxException.ThrowLast("fdatasync", path);
        }
    }

    private static bool Again() => (Errno)Marshal.GetLastPInvokeError() == Errno.EINTR;
}

/// <summary>The tail of a saved machine as a stream: read from its start or written to its end.</summary>
/// <param name="file">The file.</param>
/// <param name="offset">Where it begins.</param>
/// <param name="length">Bytes that may be read; for writing, 0.</param>
internal sealed class SavedMachineTail(SavedMachineFile file, ulong offset, ulong length) : Stream
{
    private ulong _done;

    /// <summary>Bytes read or written so far.</summary>
    internal ulong Done => _done;

    public override bool CanRead => true;

    public override bool CanWrite => true;

    public override bool CanSeek => false;

    public override long Length => throw new NotSupportedException();

    public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }

    public override int Read(Span<byte> buffer)
    {
        int read = file.ReadSome(offset + _done, buffer[..(int)Math.Min((ulong)buffer.Length, length - _done)]);
        _done += (ulong)read;
        return read;
    }

    public override void Write(ReadOnlySpan<byte> buffer)
    {
        file.Write(offset + _done, buffer);
        _done += (ulong)buffer.Length;
    }

    public override int Read(byte[] buffer, int offset, int count) => Read(buffer.AsSpan(offset, count));

    public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

    public override void Flush()
    {
    }

    public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

    public override void SetLength(long value) => throw new NotSupportedException();
}
