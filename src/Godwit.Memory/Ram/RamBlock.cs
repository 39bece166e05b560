using Godwit.Interop.Linux;

namespace Godwit.Memory;

/// <summary>
/// A piece of guest RAM on a sealed memfd, mapped into the VMM. The guest and its devices write it at any time, so no managed
/// reference into it exists: callers copy in and out, each field read once, and validate the copy.
/// </summary>
public sealed unsafe class RamBlock
{
    internal RamBlock() { }

    /// <summary>Name in the migration stream, unique in the machine.</summary>
    public string Name => throw new NotImplementedException();

    /// <summary>Bytes, a multiple of 2 MiB.</summary>
    public ulong Size => throw new NotImplementedException();

    /// <summary>The machine page number of this block's first page.</summary>
    public RamPage FirstPage => throw new NotImplementedException();

    /// <summary>The file behind it, for handing to device processes.</summary>
    public FileDescriptor File => throw new NotImplementedException();

    /// <summary>
    /// First byte of the block in this process, for bulk senders and receivers. Bytes may change at any time; valid until the
    /// owning <see cref="GuestRam"/> is disposed. Writers through it must call <see cref="DirtyLog.Mark(RamPage, ulong, DirtySource)"/> themselves.
    /// </summary>
    public byte* Pointer => throw new NotImplementedException();

    /// <summary>Copies out. Throws <see cref="ArgumentOutOfRangeException"/> outside the block.</summary>
    public void Read(ulong offset, Span<byte> destination) => throw new NotImplementedException();

    /// <summary>Copies in, then marks the pages for <paramref name="source"/>.</summary>
    public void Write(ulong offset, ReadOnlySpan<byte> data, DirtySource source) => throw new NotImplementedException();
}

/// <summary>All RAM of one machine: the blocks, the page numbering over them, and the migration bitmap.</summary>
public sealed class GuestRam : IDisposable
{
    /// <summary>The blocks in page order.</summary>
    public IReadOnlyList<RamBlock> Blocks => throw new NotImplementedException();

    /// <summary>Pages in all blocks.</summary>
    public ulong PageCount => throw new NotImplementedException();

    /// <summary>The migration bitmap.</summary>
    public DirtyLog Dirty => throw new NotImplementedException();

    /// <summary>Adds a block. All blocks are added before the first <see cref="DirtyLog.Start"/>.</summary>
    /// <param name="name">Unique, at most 255 bytes of UTF-8.</param>
    /// <param name="size">Bytes; a positive multiple of 2 MiB.</param>
    public RamBlock Add(string name, ulong size) => throw new NotImplementedException();

    /// <summary>The block that holds <paramref name="page"/> and the byte offset in it.</summary>
    public bool TryResolve(RamPage page, out RamBlock block, out ulong offset) => throw new NotImplementedException();

    /// <inheritdoc/>
    public void Dispose() => throw new NotImplementedException();
}
