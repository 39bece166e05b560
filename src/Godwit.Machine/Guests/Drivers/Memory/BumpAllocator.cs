using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Drivers;

/// <summary>Boot-time memory: handed out upwards, never given back. The structure itself lies in guest RAM.</summary>
internal struct BumpAllocator
{
    public Gpa Next;
    public Gpa End;

    /// <summary>Whole pages, contiguous.</summary>
    /// <exception cref="GuestPanicException">There are not that many left.</exception>
    public Gpa Allocate(ulong bytes)
    {
        ulong rounded = checked(bytes + RamPage.Size - 1) & ~(ulong)(RamPage.Size - 1);
        if (Next.Value > End.Value || rounded > End.Value - Next.Value)
            throw new GuestPanicException($"out of low memory: {rounded} bytes wanted, {End.Value - Next.Value} left at {Next}");
        Gpa result = Next;
        Next += rounded;
        return result;
    }
}
