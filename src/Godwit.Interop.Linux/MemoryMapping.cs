using System.Runtime.InteropServices;

namespace Godwit.Interop.Linux;

/// <summary>An owned mapping of a file into this process. Unmapped when the last user has gone.</summary>
public sealed unsafe class MemoryMapping : SafeHandle
{
    private MemoryMapping() : base(0, ownsHandle: true)
    {
    }

    /// <inheritdoc/>
    public override bool IsInvalid => handle == 0;

    /// <summary>First byte. Valid while the caller keeps this object alive and undisposed.</summary>
    public byte* Address => (byte*)handle;

    /// <summary>Length in bytes, as asked for.</summary>
    public ulong Length { get; private set; }

    /// <summary>Maps <paramref name="length"/> bytes of <paramref name="file"/> from <paramref name="offset"/>, shared.</summary>
    /// <param name="file">The file; the mapping keeps its own reference to it.</param>
    /// <param name="offset">Byte offset, a multiple of the host page.</param>
    /// <param name="length">Bytes, above 0.</param>
    /// <param name="writable">False maps for reading only.</param>
    /// <exception cref="LinuxException">The kernel refused the mapping.</exception>
    public static MemoryMapping MapShared(FileDescriptor file, ulong offset, ulong length, bool writable)
    {
        Errno errno = TryMapShared(file, offset, length, writable, out MemoryMapping? mapping);
        return mapping ?? throw new LinuxException("mmap", $"{length} bytes at offset {offset}", errno);
    }

    /// <summary>The same for a caller that decides by the error: <paramref name="mapping"/> is null when it is not <see cref="Errno.None"/>.</summary>
    public static Errno TryMapShared(FileDescriptor file, ulong offset, ulong length, bool writable, out MemoryMapping? mapping)
    {
        ArgumentOutOfRangeException.ThrowIfZero(length);
        mapping = null;
        var result = new MemoryMapping();
        int protection = mman.PROT_READ | (writable ? mman.PROT_WRITE : 0);
        void* address = mman.mmap(null, checked((nuint)length), protection, mman.MAP_SHARED, file, checked((long)offset));
        if ((nint)address == -1)
            return (Errno)Marshal.GetLastPInvokeError();
        result.SetHandle((nint)address);
        result.Length = length;
        mapping = result;
        return Errno.None;
    }

    /// <summary>
    /// Maps another file, writable, in place of what is mapped, at the same address. Linux takes the old mapping away and makes the new one under
    /// one lock of the process's memory (mmap(2), MAP_FIXED), so that an access on another thread finds the one or the other.
    /// </summary>
    /// <param name="file">Read from its start; the mapping keeps its own reference to it. At least as long as the mapping.</param>
    /// <param name="copyOnWrite">What is written stays in this mapping and does not get into the file (MAP_PRIVATE).</param>
    /// <exception cref="LinuxException">The kernel refused; there may be nothing at the address any more, and an access ends the process.</exception>
    public void Replace(FileDescriptor file, bool copyOnWrite)
    {
        bool added = false;
        DangerousAddRef(ref added);
        try
        {
            // Memory for copies is not set aside for the whole of it: few pages are written.
            int flags = mman.MAP_FIXED | (copyOnWrite ? mman.MAP_PRIVATE | mman.MAP_NORESERVE : mman.MAP_SHARED);
            // SAFETY: exactly the range of this mapping, which is kept until the call has returned.
            void* address = mman.mmap((void*)handle, (nuint)Length, mman.PROT_READ | mman.PROT_WRITE, flags, file, 0);
            if ((nint)address == -1)
                LinuxException.ThrowLast("mmap", $"{Length} bytes in place of what was there");
        }
        finally
        {
            DangerousRelease();
        }
    }

    /// <inheritdoc/>
    protected override bool ReleaseHandle() => mman.munmap((void*)handle, (nuint)Length) == 0;
}
