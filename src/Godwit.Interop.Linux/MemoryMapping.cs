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

    /// <inheritdoc/>
    protected override bool ReleaseHandle() => mman.munmap((void*)handle, (nuint)Length) == 0;
}
