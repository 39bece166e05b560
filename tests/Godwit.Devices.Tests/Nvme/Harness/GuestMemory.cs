using System.Runtime.InteropServices;

namespace Godwit.Devices.Tests;

/// <summary>Plain memory that plays guest RAM, at bus addresses from <see cref="Base"/>. Pages are handed out in address order.</summary>
internal sealed unsafe class GuestMemory : IDisposable
{
    public const ulong Base = 0x1_0000_0000;

    private readonly byte* _memory;
    private ulong _next = Base;

    public GuestMemory(int size)
    {
        Size = size;
        _memory = (byte*)NativeMemory.AlignedAlloc((nuint)size, 65536);
        new Span<byte>(_memory, size).Clear();
    }

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

    public void Dispose() => NativeMemory.AlignedFree(_memory);
}
