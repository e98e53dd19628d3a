"""What is measured downstream: conversion to Detectron2, detection, segmentation, linear classification and kNN."""
