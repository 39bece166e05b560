using Godwit.Interop.Linux;

namespace Godwit.Vfio;

/// <summary>Opens devices of the host's kernel. What fails leaves nothing open.</summary>
internal static class KernelAttach
{
    /// <summary>Opens the device that <paramref name="options"/> name.</summary>
    /// <exception cref="VfioAttachException">It cannot be had; the type and the text say why and what to do.</exception>
    public static KernelBackend Open(KernelDeviceOptions options, IKernelCalls calls, HostPci host)
    {
        if (options.Descriptor is { } number)
            return OpenPassedIn(options, number, calls, host);
        string name = options.Host!;
        HostPciDevice device = (HostPciAddress.TryParse(name, out HostPciAddress address) ? host.Find(address) : host.FindByPath(name))
            ?? throw new VfioAttachException(name, "the host has no such PCI device");
        if (!device.HasVfioDriver)
            throw new DeviceNotBoundException(device);
        if (options.Iommu == HostIommuKind.Type1)
            return OpenGroup(device, calls, host);

        FileDescriptor? file = OpenNode(device, calls, orElse: options.Iommu == HostIommuKind.Auto);
        return file is null ? OpenGroup(device, calls, host) : Attach(device, file, calls);
    }

    private static KernelBackend OpenGroup(HostPciDevice device, IKernelCalls calls, HostPci host)
    {
        Type1Space space = Type1Space.Open(calls, device, host, out FileDescriptor file);
        return Listening(new KernelBackend(calls, device, file, space));
    }

    private static KernelBackend Attach(HostPciDevice device, FileDescriptor file, IKernelCalls calls)
    {
        IommufdSpace space;
        try
        {
            space = IommufdSpace.Open(calls, device.Address.ToString(), file);
        }
        catch
        {
            file.Dispose();
            throw;
        }

        return Listening(new KernelBackend(calls, device, file, space));
    }

    private static KernelBackend Listening(KernelBackend device)
    {
        try
        {
            device.Listen();
            return device;
        }
        catch (Exception e)
        {
            device.Dispose();
            if (e is IOException)
                throw new VfioAttachException(device.Address, e.Message, e);
            throw;
        }
    }

    /// <summary>The device's own node; null when it or iommufd is not there and the caller has another way.</summary>
    private static FileDescriptor? OpenNode(HostPciDevice device, IKernelCalls calls, bool orElse)
    {
        string address = device.Address.ToString();
        if (device.VfioName is null)
            return orElse ? null : throw new VfioAttachException(address, "the kernel offers no node for it (CONFIG_VFIO_DEVICE_CDEV); use the type1 interface");
        if (orElse)
        {
            Errno there = calls.Open(IommufdSpace.Node, out FileDescriptor? iommufd);
            iommufd?.Dispose();
            if (there != Errno.None)
                return null;
        }

        string path = $"/dev/vfio/devices/{device.VfioName}";
        Errno errno = calls.Open(path, out FileDescriptor? file);
        if (errno == Errno.None)
            return file;
        return orElse && errno is Errno.ENOENT or Errno.ENODEV or Errno.ENXIO ? null : throw KernelPaths.OpenFailed(address, path, errno);
    }

    /// <summary>
    /// A descriptor that another program opened and passed on. It is taken only when it is what it is said to be: open, a node of a VFIO device,
    /// and inherited, which a descriptor of this program never is because all of those are closed on exec.
    /// </summary>
    private static KernelBackend OpenPassedIn(KernelDeviceOptions options, int number, IKernelCalls calls, HostPci host)
    {
        string name = $"fd {number}";
        Errno errno = calls.Inspect(number, out InheritedDescriptor passed);
        if (errno != Errno.None)
            throw new VfioAttachException(name, $"no such descriptor was passed to this process: {errno}");
        if (passed.CloseOnExec)
            throw new VfioAttachException(name, "the descriptor was not passed to this process; it is one of its own");
        HostPciDevice device = (passed.IsCharacterDevice ? host.FindByDeviceNumber(passed.Major, passed.Minor) : null)
            ?? throw new VfioAttachException(name, "the descriptor is no node of a VFIO device (/dev/vfio/devices/vfioN)");
        if (options.Iommu == HostIommuKind.Type1)
            throw new VfioAttachException(name, "a device passed in by its node needs iommufd; the type1 interface opens devices by their group");
        FileDescriptor file = calls.Adopt(number);
        errno = calls.SetCloseOnExec(file);
        if (errno == Errno.None)
            return Attach(device, file, calls);
        file.Dispose();
        throw new VfioAttachException(name, $"fcntl(F_SETFD) failed: {errno}");
    }
}
