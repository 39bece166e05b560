namespace Godwit.Iommu.Intel.Spec;

/// <summary>The interrupt address range 0xFEEx_xxxx: requests to it are messages and never translated (VT-d 3.15).</summary>
internal static class InterruptRange
{
    internal const ulong First = 0xFEE0_0000;
    internal const ulong Size = 0x10_0000;
    internal const ulong Last = First + Size - 1;

    internal static bool Contains(ulong address) => address is >= First and <= Last;

    internal static bool Overlaps(ulong address, ulong bytes) => address <= Last && address + (bytes - 1) >= First;
}
