using Godwit.Interop.Linux;

namespace Godwit.Devices.Tests;

/// <summary>Plain memory that plays guest RAM, at bus addresses from <see cref="Base"/>. Pages are handed out in address order.</summary>
internal sealed unsafe class GuestMemory : IDisposable
{
    public const ulong Base = 0x1_0000_0000;

    private readonly MemoryMapping _mapping;
    private readonly byte* _memory;
    private ulong _next = Base;

    public GuestMemory(int size)
    {
        Size = size;
        File = MemFd.Create("guest", (ulong)size);
        _mapping = MemoryMapping.MapShared(File, 0, (ulong)size, writable: true);
        _memory = _mapping.Address;
    }

    /// <summary>What a client hands to the device.</summary>
    public MemFd File { get; }

    public int Size { get; }

    public ulong End => Base + (ulong)Size;

    public byte* Pointer(ulong address) => _memory + (address - Base);

    public bool Contains(ulong address, int length) => address >= Base && address <= End && (ulong)length <= End - address;

    public Span<byte> Span(ulong address, int length)
    {
        if (!Contains(address, length))
            throw new ArgumentOutOfRangeException(nameof(address), $"0x{address:x}+{length} is outside guest memory");
        return new Span<byte>(Pointer(address), length);
    }

    /// <summary>Allocates zeroed bytes at a multiple of <paramref name="alignment"/>.</summary>
    public ulong Allocate(int length, int alignment = 4096)
    {
        _next = (_next + (ulong)alignment - 1) & ~((ulong)alignment - 1);
        ulong address = _next;
        Span(address, length).Clear();
        _next += (ulong)length;
        return address;
    }

    public void Dispose()
    {
        _mapping.Dispose();
        File.Dispose();
    }
}
