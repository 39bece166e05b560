using System.Runtime.InteropServices;
using Godwit.Machine.Guests.Drivers;

namespace Godwit.Machine.Guests.Stress;

/// <summary>A domain that a controller can be in: its id, its page table, and which of its IOVAs are taken. In guest RAM.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct DmaDomain
{
    public ushort Id;
    public IoPageTable Table;
    public IovaAllocator Iovas;
}
