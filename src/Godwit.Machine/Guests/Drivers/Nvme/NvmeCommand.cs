using System.Runtime.InteropServices;

namespace Godwit.Machine.Guests.Drivers;

/// <summary>A submission queue entry (NVM Express 1.4, 4.2).</summary>
[StructLayout(LayoutKind.Sequential, Size = 64)]
internal struct NvmeCommand
{
    public byte Opcode;
    public byte Flags;
    public ushort Id;
    public uint Namespace;
    public ulong Reserved;
    public ulong Metadata;
    public ulong Prp1;
    public ulong Prp2;
    public uint Dword10;
    public uint Dword11;
    public uint Dword12;
    public uint Dword13;
    public uint Dword14;
    public uint Dword15;
}
